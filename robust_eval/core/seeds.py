"""Derive one random seed per unit from a root seed."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def derive(root: int, *names: str) -> int:
    """A seed in [0, 2**31) that depends only on the root seed and the names."""
    text = "\x1f".join([str(root), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random. (ART draws random starts from the global generator of numpy.)"""
    # Imported late: planning derives seeds without torch.
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
