"""A rule of a flag: its severity and its texts."""

from __future__ import annotations

from typing import Literal, NamedTuple

BLOCKS: Literal["blocks ranking"] = "blocks ranking"
WARNS: Literal["warns"] = "warns"


class Rule(NamedTuple):
    """Texts of a flag: ``threshold`` completes "Threshold: ...", ``advice`` is one sentence on what to do."""

    severity: Literal["blocks ranking", "warns"]
    threshold: str
    advice: str


Finding = tuple[str, str]
"""The id of a flag and the measured figure."""
