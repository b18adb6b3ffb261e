"""Verdicts as text: one character per example in the order of the slice, ``1`` robust, ``0`` not."""

from __future__ import annotations

import numpy as np

from robust_eval.core.records import Bools


def bits_text(bits: Bools) -> str:
    return "".join("1" if bit else "0" for bit in bits)


def parse_bits(text: str) -> Bools:
    return np.array([character == "1" for character in text], dtype=np.bool_)
