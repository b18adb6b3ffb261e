"""Fold weight normalisation (Salimans and Kingma 2016) into the weights: w = g v / |v|."""

from __future__ import annotations

import torch

from robust_eval.core.text import count_of
from robust_eval.models.loading.state_dict_diff import State

_PAIRS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
"""Names of g and v, as ``torch.nn.utils.weight_norm`` and its successor write them."""


def folded(state: State) -> tuple[State, tuple[str, ...]]:
    """The state dict with plain weights, and a note for the result if there were others."""
    found: State = {}
    count = 0
    for key, value in state.items():
        layer, names = next(
            ((key[: -len(names[1])], names) for names in _PAIRS if key.endswith(names[1])), ("", None)
        )
        if names is not None and layer + names[0] in state and layer + "weight" not in state:
            found[layer + "weight"] = _weight(state[layer + names[0]], value)
            count += 1
        elif not any(key.endswith(g) and key.removesuffix(g) + v in state for g, v in _PAIRS):
            found[key] = value
    return found, (f"folded weight normalisation into {count_of(count, 'layer')}",) if count else ()


def _weight(g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``g`` has length 1 in the dimensions over which the norm is taken, or is a number."""
    over = [i for i in range(v.dim()) if g.dim() != v.dim() or g.shape[i] == 1]
    weight: torch.Tensor = v * (g / torch.linalg.vector_norm(v, dim=over, keepdim=True))
    return weight
