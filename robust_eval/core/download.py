"""torchvision's datasets: found under the data root, else downloaded, with one sentence on failure."""

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
# A connection that delivers nothing for this long is given up; torchvision itself would wait for ever.
STALL_SECONDS = 30.0


@contextlib.contextmanager
def download_timeout() -> Iterator[None]:
    """Sockets opened inside give up after STALL_SECONDS of silence; progress goes to stderr."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)


def find_or_download(
    name: str, build: Callable[[Path, bool], T], places: Sequence[Path], needs: str, source: str
) -> T:
    """``build(place, False)`` where the files are, else ``build(places[0], True)``.

    ``build`` raises RuntimeError where files are missing or damaged (torchvision checks MD5 sums
    before it unpickles). ``needs`` and ``source`` complete the sentence for a failed download.
    """
    for place in places:
        with contextlib.suppress(RuntimeError):
            return build(place, False)
    try:
        with download_timeout():
            return build(places[0], True)
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{name} is not in {places[0]} and could not be downloaded ({_reason(error)}). "
            f"Put {needs} there ({source}), or point --data-root at a folder that has it."
        ) from None


def _reason(error: Exception) -> str:
    """What went wrong, in a few words, out of torchvision's several lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    inner = re.search(r"<urlopen error (?:\[Errno -?\d+\] )?(.+?)>", text)
    return inner[1] if inner else text[:160]
