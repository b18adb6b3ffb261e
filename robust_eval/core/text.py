"""Text from strangers - names in files that anybody may have written - before it is shown."""

from __future__ import annotations

import unicodedata


def count_of(n: int, what: str) -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def printable(value: str, most: int = 300) -> str:
    """One line without control, format or direction marks, so that a terminal shows it and does no more.

    Longer than ``most`` characters, it ends in ``...``.
    """
    kept = "".join(c for c in value if unicodedata.category(c)[0] != "C" or c.isspace())
    line = " ".join(kept.split())
    return line if len(line) <= most else line[: most - 3] + "..."
