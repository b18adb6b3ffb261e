"""Atomic file writes that survive a power cut, and error messages for failed writes."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from robust_eval.core.errors import UserError

RETRY_SECONDS = 60.0
"""How long :func:`retry_write` waits for a folder that cannot be reached."""
_TEMPORARY = re.compile(r"\..+\.([1-9][0-9]{0,9})\.tmp")
"""Name of a temporary file, with the process that writes it."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LASTING = (*_FULL, errno.EFBIG)


@contextmanager
def atomic(path: Path) -> Iterator[Any]:
    """Write a binary file atomically: a temporary file is flushed to disk, then renamed to ``path``.

    The folder is flushed too: afterwards the file survives a power cut.
    """
    with _written_together([path]) as (file,):
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raises :class:`UserError` if that fails."""
    write_files({path: text.encode()})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files, each atomically; none is replaced before all are on disk under temporary names.

    Raises :class:`UserError` if that fails.
    """
    folders = sorted({path.parent for path in contents})
    with report_write_errors(folders[0]), _written_together(list(contents)) as files:
        for file, content in zip(files, contents.values(), strict=True):
            file.write(content)


@contextmanager
def _written_together(paths: list[Path]) -> Iterator[list[Any]]:
    """Open temporary files; at the end, flush and rename them to ``paths``, or remove them after an error."""
    temporary = [temporary_path(path) for path in paths]
    files: list[Any] = []
    try:
        try:
            for path in temporary:
                files.append(open_new(path))
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in files:
                file.close()
        for old, new in zip(temporary, paths, strict=True):
            old.replace(new)
    except BaseException:
        for path in temporary:
            with suppress(OSError):
                path.unlink()
        raise
    for folder in {path.parent for path in paths}:
        sync_folder(folder)


def temporary_path(path: Path) -> Path:
    """The temporary file that becomes ``path``, in the same folder."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")


def open_new(path: Path) -> BinaryIO:
    """Create a file for writing. What had its name is removed: a link there could lead out of the folder."""
    try:
        return path.open("xb")
    except FileExistsError:
        path.unlink()
        return path.open("xb")


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk. Windows has no such call: NTFS keeps a journal of names."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems refuse to flush a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def create_folder(folder: Path) -> None:
    """Create a folder and its parents, unless they exist, and flush their names to disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary file of this module."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, which this process has locked.

    Files of living processes of this machine are left alone; Windows refuses to remove them.
    """
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is not None and not _is_other_process(int(found[1])):
            with suppress(OSError):
                path.unlink()


def _is_other_process(number: int) -> bool:
    if os.name == "nt" or number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


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
    if error.errno in _FULL:
        return UserError(
            f"No space left to write {folder}. Everything finished so far is kept: free some space and "
            "repeat the same command."
        )
    return UserError(f"Cannot write to {folder}: {error.strerror or error}. Choose another folder.")


def retry_write(write: Callable[[], None], folder: Path, log: Callable[[str], None]) -> None:
    """Call ``write`` until it succeeds, for at most RETRY_SECONDS; a full disk or a limit on
    the size of files is an error at once.

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
            lasting = isinstance(cause, OSError) and cause.errno in _LASTING
            if lasting or time.monotonic() - start > RETRY_SECONDS:
                raise
            if not logged:
                log(f"{folder} cannot be reached; retrying for up to {RETRY_SECONDS:.0f} s.")
                logged = True
            time.sleep(0.5)
