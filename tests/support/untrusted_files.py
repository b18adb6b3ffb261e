"""Files that readers must refuse in words."""

from __future__ import annotations


def short(value: object) -> str:
    """The name of a parametrised case: its message, not the content of its file."""
    return value[:60] if isinstance(value, str) else "file"
