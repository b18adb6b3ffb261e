"""Open an untrusted file: regular files only, of limited size.

Pipes, devices and sockets are refused before they are opened, because reading one may wait for ever or
never end.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from robust_eval.core.errors import UserError


@contextmanager
def opened(path: Path, what: str, most: int) -> Iterator[BufferedReader]:
    """Open ``path`` for reading; ``what`` ("JSON files") may have at most ``most`` bytes.

    An OSError or a lack of memory in the block is also reported.

    Raises:
        UserError: if it does not exist, is no regular file, is larger, has a name that is not valid text, or
            cannot be read, or needs too much memory.
    """
    _refuse_bad_name(path)
    try:
        _refuse_irregular(path, path.stat(), what, most)
        # Another process may replace the file by a pipe: opening one without waiting is harmless.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _refuse_irregular(path, status, what, most)
            if status.st_size == 0 and _gives_content(descriptor):
                raise _not_a_file(path)
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Check the path.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise too_large(path) from None


def too_large(path: Path) -> UserError:
    """The error for a file that this machine cannot hold."""
    return UserError(
        f"{path} needs more memory than is free. Close other programs, or use a machine with more memory."
    )


def _refuse_irregular(path: Path, status: os.stat_result, what: str, most: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a folder. Name a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_file(path)
    if status.st_size > most:
        raise UserError(
            f"{path} is larger than {size_text(most)}, the limit for {what}. Is it the right file?"
        )


def _not_a_file(path: Path) -> UserError:
    return UserError(f"{path} is a pipe or a device. Copy its content to a file.")


def _gives_content(descriptor: int) -> bool:
    """Whether an empty file can be read: those of /proc can, and reading one may wait for ever."""
    try:
        return bool(os.read(descriptor, 1))
    except BlockingIOError:
        return True


def _refuse_bad_name(path: Path) -> None:
    """A name whose bytes are not UTF-8 could be neither printed nor written to a result."""
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} is not the name of a file: it contains a zero byte.")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="surrogateescape").decode(errors="replace")
        raise UserError(f"{shown} has a name that is not valid UTF-8 text. Rename it.") from None


def size_text(size: int) -> str:
    """A number of bytes as ``64 KiB``, ``8 MiB`` or ``2 GiB``."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"


def read_bytes(path: Path, what: str, most: int) -> bytes:
    """The content of a file. Raises like :func:`opened`, and if it grows beyond ``most`` meanwhile."""
    with opened(path, what, most) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} never ends or is still being written. Copy it to a new file.")
    return content


def read_text(path: Path, what: str, most: int) -> str:
    """The content of a UTF-8 file. Raises like :func:`read_bytes`, and for other bytes."""
    try:
        return read_bytes(path, what, most).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None


def sha256(path: Path, what: str, most: int) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises like :func:`opened`."""
    with opened(path, what, most) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
