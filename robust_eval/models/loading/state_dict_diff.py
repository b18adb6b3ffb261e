"""Compare the tensors of a file with those of a network by name and shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_eval.core.errors import UserError
from robust_eval.models.architectures import Shapes

State = dict[str, Tensor]
_COUNTER = "num_batches_tracked"


class NoFitError(UserError):
    """No network that was tried has the tensors of the file."""


@dataclass(frozen=True)
class StateDictDifference:
    """Differences in names and shapes; ``str`` gives the text for error messages."""

    agreeing: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether all names and shapes agree."""
        return not (self.missing or self.unexpected or self.reshaped)

    @property
    def share(self) -> float:
        """Share of the tensors that agree."""
        total = self.agreeing + len(self.missing) + len(self.unexpected) + len(self.reshaped)
        return self.agreeing / max(total, 1)

    def __str__(self) -> str:
        parts = [f"{self.agreeing} tensors agree"]
        named = {"missing": self.missing, "not expected": self.unexpected, "other shapes": self.reshaped}
        parts += [f"{what} ({len(keys)}): {name_some(keys)}" for what, keys in named.items() if keys]
        return "; ".join(parts)


def name_some(keys: Iterable[str], limit: int = 3) -> str:
    """The first ``limit`` names, and how many more there are."""
    listed = list(keys)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Tensor shapes by name."""
    return {key: tuple(value.shape) for key, value in state.items()}


def compare(expected: Shapes, given: Shapes) -> StateDictDifference:
    """Compare shapes; the batch counters of BatchNorm are ignored, as evaluation does not use them."""
    wanted = {key: shape for key, shape in expected.items() if not key.endswith(_COUNTER)}
    have = {key: shape for key, shape in given.items() if not key.endswith(_COUNTER)}
    both = wanted.keys() & have.keys()
    reshaped = [
        f"{key} is {_size(have[key])}, not {_size(wanted[key])}"
        for key in wanted
        if _differ(key, wanted, have)
    ]
    return StateDictDifference(
        len(both) - len(reshaped),
        tuple(key for key in wanted if key not in have),
        tuple(key for key in have if key not in wanted),
        tuple(reshaped),
    )


def _differ(key: str, wanted: Shapes, have: Shapes) -> bool:
    return key in have and tuple(wanted[key]) != tuple(have[key])


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def completed(state: State, expected: Mapping[str, Tensor], name: str) -> State:
    """Add the batch counters that old checkpoints lack (no effect in eval mode), and drop other names.

    Raises:
        UserError: if the file ``name`` holds whole numbers where the network has floating-point numbers, or
            the reverse.
    """
    counters = {key: torch.zeros((), dtype=torch.int64) for key in expected if key.endswith(_COUNTER)}
    named = {key: value for key, value in state.items() if key in expected}
    for key, value in named.items():
        if key not in counters and value.is_floating_point() != expected[key].is_floating_point():
            kinds = [str(one.dtype).removeprefix("torch.") for one in (value, expected[key])]
            raise UserError(f"{name}: '{key}' holds {kinds[0]} numbers, the network has {kinds[1]}.")
    return {**counters, **named}
