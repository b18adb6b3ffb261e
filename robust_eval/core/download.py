"""Find datasets of torchvision under the data root, or download them."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from robust_eval.core.errors import UserError

T = TypeVar("T")
# Seconds without data after which a download is abandoned; torchvision itself sets no timeout.
STALL_SECONDS = 30.0


def user_cache(variable: str) -> Path:
    """The folder that an environment variable names, else ``~/.cache/robust-eval``.

    Raises :class:`UserError` if the variable is not set and no home folder is known.
    """
    try:
        return Path(os.environ.get(variable) or "~/.cache/robust-eval").expanduser()
    except RuntimeError:
        raise UserError(f"Your home folder is not known: set {variable} to a folder for downloads.") from None


@contextlib.contextmanager
def download_timeout() -> Iterator[None]:
    """Set the default socket timeout to STALL_SECONDS, and send download progress to stderr."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)


def find_or_download(
    name: str, build: Callable[[Path, bool], T], folders: Sequence[Path], needs: str, source: str
) -> T:
    """Build a dataset from the first folder that has its files, else download it to ``folders[0]``.

    ``build(folder, download)`` raises RuntimeError if files are missing or damaged (torchvision checks
    MD5 sums before it unpickles). ``needs`` (the files) and ``source`` (their address) are named in the
    error message.

    Raises:
        UserError: if the download fails.
    """
    for folder in folders:
        with contextlib.suppress(RuntimeError):
            return build(folder, False)
    try:
        with download_timeout():
            return build(folders[0], True)
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{name} is not in {folders[0]} and could not be downloaded ({_reason(error)}). "
            f"Put {needs} there ({source}), or point --data-root at a folder that has it."
        ) from None


def _reason(error: Exception) -> str:
    """The cause of a failed download, shortened from the error message of torchvision."""
    text = " ".join(str(error).split()) or type(error).__name__
    inner = re.search(r"<urlopen error (?:\[Errno -?\d+\] )?(.+?)>", text)
    return inner[1] if inner else text[:160]
