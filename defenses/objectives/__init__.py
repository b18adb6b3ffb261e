"""Training objectives, one file each: the file's stem is the id. May import ``robust_eval.core``.

An objective file has

- ``Params``: its parameters (a section of the recipe);
- ``attack_loss(forward, x_NCHW, y, params)``: the function of the adversarial logits that the inner
  maximisation maximises, one value per image;
- ``loss(forward, x_NCHW, adv_NCHW, y, params) -> Terms``: the loss that training minimises.

``forward`` maps images in [0, 1] to logits_NK; the second call with the same tensor within ``loss`` costs
nothing, and updates BatchNorm's running statistics once more. ``y`` holds class ids (N,), or class
probabilities (N, K) under mixup.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pydantic import ConfigDict, Field, field_validator

from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.discovery import module, module_ids
from robust_eval.core.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor

Forward = Callable[["Tensor"], "Tensor"]
"""x_NCHW in [0, 1] to logits_NK."""
PerImage = Callable[["Tensor"], "Tensor"]
"""logits_NK to one loss per image, shape (N,)."""


class Terms(NamedTuple):
    """The training loss of a batch and the logits it was computed from."""

    loss: Tensor
    """Scalar, differentiable."""
    logits_NK: Tensor
    """Adversarial logits, for display."""


LARGEST_COUNT = 10**9
"""Largest whole number in a recipe; larger ones are mistakes, and would be counted to for ever."""


class Section(ClosedModel):
    """Base class of a recipe's sections: unknown fields and wrong types are errors."""

    model_config = ConfigDict(strict=True)

    @field_validator("*")
    @classmethod
    def _of_usable_size(cls, value: Any) -> Any:
        if isinstance(value, int) and value > LARGEST_COUNT:
            raise ValueError(f"input should be at most {LARGEST_COUNT:,}")
        return value


class ObjectiveParams(Section):
    """Base class of an objective's parameters; ``name`` is its id."""

    name: str = Field(min_length=1)


class Objective(Protocol):
    """The interface of an objective file."""

    Params: type[ObjectiveParams]

    @staticmethod
    def attack_loss(forward: Forward, x_NCHW: Tensor, y: Tensor, params: Any) -> PerImage: ...

    @staticmethod
    def loss(forward: Forward, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, params: Any) -> Terms: ...


def objective_ids() -> tuple[str, ...]:
    """The ids of all objectives."""
    return module_ids(__name__)


def objective_module(name: str) -> ModuleType:
    """Import an objective's file. Raises UserError, with a suggestion, for an unknown name."""
    if name not in objective_ids():
        raise unknown("objective", name, objective_ids())
    return module(__name__, name)


def parse_objective(table: object) -> ObjectiveParams:
    """Validate a recipe's ``objective`` table with the parameters of the objective it names."""
    if isinstance(table, ObjectiveParams):
        return table
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise ValueError(f"expected a table with a name, one of {', '.join(objective_ids())}")
    params: ObjectiveParams = objective_module(table["name"]).Params.model_validate(table)
    return params
