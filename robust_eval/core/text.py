"""Format counts, and sanitise untrusted text before printing it."""

from __future__ import annotations

import unicodedata

from robust_eval.core.errors import UserError


def count_of(n: int, what: str) -> str:
    """A count with its noun: ``1 row``, ``1,200 rows``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def printable(value: str, most: int = 300) -> str:
    """``value`` on one line, without control, format and text-direction characters.

    Terminal escape sequences are thus disabled. Text longer than ``most`` characters is cut and ends in
    ``...``.
    """
    allowed = "".join(c for c in value if unicodedata.category(c)[0] != "C" or c.isspace())
    line = " ".join(allowed.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def duration(seconds: float) -> str:
    """Format a duration: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def parse_names(text: str, n: int) -> list[str]:
    """``AT,AT-AWP`` as ``n`` different printable names, the value of ``--names``.

    Raises:
        UserError: for another number of names, or an empty or repeated one.
    """
    names = [printable(name, 40) for name in text.split(",")]
    if len(names) != n or len(set(names)) != n or not all(names):
        raise UserError(f"--names needs {n} different names, separated by commas; got '{text}'.")
    return names
