"""Models whose logits are part of a larger output, as in transformers, or a single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

LOGITS = "logits"


class TakesLogits(nn.Module):
    """A model that returns the logits (N, K) in the output of ``model``."""

    def __init__(self, model: nn.Module, place: str) -> None:
        """``place``: as :func:`place_of_logits` found it."""
        super().__init__()
        self.model, self.place = model, place
        self.training = model.training

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return take(self.model(x_NCHW), self.place)


class TwoLogits(nn.Module):
    """A model with the logits (0, z) of two classes, from one that returns z, of shape (N, 1) or (N,)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x_NCHW: Tensor) -> Tensor:
        z_N1 = self.model(x_NCHW).reshape(len(x_NCHW), 1)
        return torch.cat([torch.zeros_like(z_N1), z_N1], 1)


_PLACES: Mapping[str, Any] = {
    ".logits": lambda output: output.logits,
    "['logits']": lambda output: output[LOGITS],
    "[0]": lambda output: output[0],
}


def take(output: object, place: str) -> Tensor:
    """The logits at a place of an output."""
    return cast(Tensor, _PLACES[place](output))


def place_of_logits(output: object) -> str:
    """Where the logits of a batch are in an output that is no tensor: '' if they are nowhere.

    An attribute or key named ``logits``, else the first entry of a tuple, as (logits, features).
    """
    if isinstance(output, Tensor):
        return ""
    if _is_batch(getattr(output, LOGITS, None)):
        return ".logits"
    if isinstance(output, Mapping):
        return "['logits']" if _is_batch(output.get(LOGITS)) else ""
    return "[0]" if isinstance(output, Sequence) and len(output) and _is_batch(output[0]) else ""


def _is_batch(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2


def note(place: str) -> str:
    """What a result records about a model whose output is no tensor."""
    return f"the logits are {place} of the model's output"
