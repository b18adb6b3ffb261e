"""``--arch ID?one_logit=true``: a network with one logit z for two classes, as one with the logits (0, z)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from robust_eval.core.errors import UserError
from robust_eval.models.architectures import ONE_LOGIT, split_arguments
from robust_eval.models.loading.foreign_weights import Weights
from robust_eval.models.loading.state_dict_diff import State


def asked(arch: str | None, recorded: Mapping[str, Any]) -> bool:
    """Whether the user names the argument, or the architecture of a loaded checkpoint records it.

    Raises:
        UserError: if its value is not true.
    """
    given = {**recorded, **(split_arguments(arch)[1] if arch else {})}
    if given.get(ONE_LOGIT, True) is not True:
        raise UserError(
            f"--arch: {ONE_LOGIT} can only be true. Omit it for a network with a logit per class."
        )
    return ONE_LOGIT in given


def refuse_single(outputs: int, name: str, arch: str) -> None:
    """Raise :class:`UserError` for a network with one output."""
    if outputs == 1:
        raise UserError(
            f"{name} has one output. If that is one logit for two classes, say so: --arch "
            f"'{arch}?{ONE_LOGIT}=true'."
        )


def two_logits(weights: Weights, name: str) -> Weights:
    """The weights with a last layer that also returns 0, the logit of the first class.

    Raises:
        UserError: if the last layer has several outputs.
    """
    return replace(weights, state=_widened(weights.state, name), stored=_widened(weights.stored, name))


def _widened(state: State, name: str) -> State:
    layers = [key for key, value in state.items() if key.endswith("weight") and value.dim() > 1]
    head = layers[-1].removesuffix("weight") if layers else ""
    found = {key: value for key, value in state.items() if key in (f"{head}weight", f"{head}bias")}
    if not layers or any(len(value) != 1 for value in found.values()):
        raise UserError(f"{name} has no last layer with one logit. Omit {ONE_LOGIT}.")
    return {**state, **{key: torch.cat([torch.zeros_like(value), value]) for key, value in found.items()}}
