"""Verdicts as text: one character per example, in order; ``1`` robust, ``0`` not."""

from __future__ import annotations

import numpy as np

from robust_eval.core.types import Bools


def bits_text(bits: Bools) -> str:
    """Write verdicts, shape (n,), as text."""
    return np.where(bits, b"1", b"0").tobytes().decode()


def parse_bits(text: str) -> Bools:
    """Read verdicts, shape (n,), from text."""
    # Vectorised: a board can hold millions of verdicts.
    bits: Bools = np.frombuffer(text.encode(), dtype=np.uint8) == ord("1")
    return bits
