"""Where commands print: a terminal of some width, or a file or pipe, where lines are never broken."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_UNBROKEN = 10_000


def console() -> Console:
    """As wide as the terminal. Without one a line stays a line, unless ``COLUMNS`` asks for a width."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_UNBROKEN if wide else None)
