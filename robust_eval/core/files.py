"""Atomic file writes, and error messages for failed writes."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robust_eval.core.errors import UserError

RETRY_SECONDS = 60.0
"""How long :func:`retry_write` waits for a folder that cannot be reached."""


@contextmanager
def atomic(path: Path) -> Iterator[Any]:
    """Write a binary file atomically: a temporary file is flushed to disk, then renamed to ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raises :class:`UserError` if that fails."""
    with report_write_errors(path.parent), atomic(path) as file:
        file.write(text.encode())


def refuse_unwritable(folder: Path) -> None:
    """Raise :class:`UserError` unless files can be created in ``folder``, which must exist."""
    with report_write_errors(folder), tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def report_write_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a :class:`UserError` that names ``folder``."""
    try:
        yield
    except OSError as error:
        raise _refusal(folder, error) from error


def _refusal(folder: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"No space left to write {folder}. Everything finished so far is kept: free some space and "
            "repeat the same command."
        )
    return UserError(f"Cannot write to {folder}: {error.strerror or error}. Choose another folder.")


def retry_write(write: Callable[[], None], folder: Path, log: Callable[[str], None]) -> None:
    """Call ``write`` until it succeeds, for at most RETRY_SECONDS; a full disk is an error at once.

    For network folders that may be unreachable for a while. ``log`` receives one line when the wait begins.

    Raises:
        UserError: the last error of ``write``.
    """
    start, logged = time.monotonic(), False
    while True:
        try:
            return write()
        except UserError as error:
            cause = error.__cause__
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or time.monotonic() - start > RETRY_SECONDS:
                raise
            if not logged:
                log(f"{folder} cannot be reached; retrying for up to {RETRY_SECONDS:.0f} s.")
                logged = True
            time.sleep(0.5)
