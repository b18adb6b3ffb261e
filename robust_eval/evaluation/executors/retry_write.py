"""Writing to a folder that may be away for a while, as shared folders are."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

from robust_eval.core.errors import UserError

PATIENCE = 60.0
"""Seconds that a folder may be out of reach before it is given up."""


def patiently(write: Callable[[], None], folder: Path, say: Callable[[str], None]) -> None:
    """Try ``write`` until it succeeds; a full disk is told at once.

    Raises the last :class:`UserError` of ``write`` once patience has run out.
    """
    start, told = time.monotonic(), False
    while True:
        try:
            return write()
        except UserError as error:
            cause = error.__cause__
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or time.monotonic() - start > PATIENCE:
                raise
            if not told:
                say(f"{folder} is out of reach; waiting up to {PATIENCE:.0f} s for it.")
                told = True
            time.sleep(0.5)
