"""Training objectives, one file each: the file's stem is the id.

An objective file has

- ``Params``: its own numbers (a section of the recipe);
- ``attack_loss(forward, x_NCHW, y, params)``: the function of the adversarial logits that the inner
  maximisation raises, one value per image;
- ``loss(forward, x_NCHW, adv_NCHW, y, params) -> Terms``: what the weights minimise.

``forward`` maps images in [0, 1] to logits_NK. ``y`` holds class ids (N,), or class probabilities
(N, K) under mixup.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pydantic import ConfigDict, Field

from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.discovery import module, module_ids
from robust_eval.core.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor

Forward = Callable[["Tensor"], "Tensor"]
PerImage = Callable[["Tensor"], "Tensor"]


class Terms(NamedTuple):
    loss: Tensor
    """Scalar, with its graph."""
    logits_NK: Tensor
    """Adversarial logits, for display."""


class Section(ClosedModel):
    """A table of a recipe: typed; an unknown field or a wrong type is an error."""

    model_config = ConfigDict(strict=True)


class ObjectiveParams(Section):
    name: str = Field(min_length=1)


class Objective(Protocol):
    """What an objective file offers."""

    Params: type[ObjectiveParams]

    @staticmethod
    def attack_loss(forward: Forward, x_NCHW: Tensor, y: Tensor, params: Any) -> PerImage: ...

    @staticmethod
    def loss(forward: Forward, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, params: Any) -> Terms: ...


def objective_ids() -> tuple[str, ...]:
    return module_ids(__name__)


def objective_module(name: str) -> ModuleType:
    """The objective's file, with 'did you mean' for a name that does not exist."""
    if name not in objective_ids():
        raise unknown("objective", name, objective_ids())
    return module(__name__, name)


def parse_objective(table: object) -> ObjectiveParams:
    """The recipe's ``objective`` table, checked by the objective it names."""
    if isinstance(table, ObjectiveParams):
        return table
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise ValueError(f"expected a table with a name, one of {', '.join(objective_ids())}")
    params: ObjectiveParams = objective_module(table["name"]).Params.model_validate(table)
    return params
