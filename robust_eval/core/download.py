"""Find datasets of torchvision under the data root, or download them."""

from __future__ import annotations

import contextlib
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
