"""The rich console that commands print to."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_UNBROKEN = 10_000


def console() -> Console:
    """A console as wide as the terminal; in files and pipes no line is wrapped unless ``COLUMNS`` is set."""
    unlimited = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_UNBROKEN if unlimited else None)
