"""The recipe: all settings that determine what is trained, as a checked model."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError, model_validator

from defenses.objectives import ObjectiveParams, Section, parse_objective
from defenses.recipes.sections import (
    Augment,
    EpsilonSchedule,
    Inner,
    Optimiser,
    Perturbation,
    Replicate,
    Schedule,
    Selection,
    Threat,
    Training,
)
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.text import printable

DESCRIPTIVE_FIELDS = ("name", "title", "citation")
"""Fields that do not change what is trained."""


class Recipe(Section):
    """All settings of one defense. No field has a default: the TOML files give every value."""

    name: str
    title: str
    citation: str
    architecture: str
    architecture_arguments: dict[str, int | float | bool | str]
    """Arguments of the architecture's ``build`` function; dropped if another architecture is chosen."""
    normalisation: str
    """A known normalisation, or ``dataset``: that of the dataset if it has one, else none."""
    threat: Threat
    objective: Annotated[SerializeAsAny[ObjectiveParams], BeforeValidator(parse_objective)]
    inner: Inner
    replicate: Replicate
    perturbation: Perturbation
    optimiser: Optimiser
    schedule: Schedule
    budget: EpsilonSchedule
    augment: Augment
    training: Training
    selection: Selection

    @model_validator(mode="after")
    def _no_contradictions(self) -> Recipe:
        if self.augment.mixup and self.perturbation.kind != "none":
            raise ValueError(
                "augment.mixup cannot be combined with weight perturbation (nor in the authors' code): "
                "set augment.mixup=0 or perturbation.kind=none"
            )
        if self.augment.mixup and self.objective.name == "mart":
            raise ValueError("augment.mixup cannot be combined with mart, which needs one label per image")
        if self.inner.steps == 0 and self.objective.name != "cross-entropy":
            raise ValueError(
                f"inner.steps=0 makes no adversarial images for {self.objective.name}: set it to 1 or more"
            )
        if self.perturbation.kind != "awp" and self.perturbation.regulariser != "none":
            raise ValueError("perturbation.regulariser needs perturbation.kind=awp")
        if self.perturbation.regulariser != "none" and not self.perturbation.strength:
            raise ValueError(
                "perturbation.strength=0 disables perturbation.regulariser: set it above 0, for example to 1"
            )
        if self.perturbation.kind != "none" and self.perturbation.warmup == 1:
            raise ValueError(
                "perturbation.warmup=1 never perturbs: set it below 1, or perturbation.kind=none"
            )
        if self.perturbation.kind == "rwp" and self.perturbation.alternations * self.perturbation.steps > 1:
            raise ValueError(
                "a random perturbation is drawn once: set perturbation.alternations and steps to 1"
            )
        if self.inner.steps and not self.inner.step_size:
            raise ValueError("inner.step_size=0 does not move the attack from its start: set it above 0")
        if not self.selection.step_size:
            raise ValueError("selection.step_size=0 does not move the measuring attack: set it above 0")
        drops = [Fraction(0), *self.schedule.milestones, Fraction(1)]
        if any(a >= b for a, b in itertools.pairwise(drops)):
            raise ValueError("schedule.milestones must be increasing and between 0 and 1")
        if self.schedule.kind == "cyclic" and self.schedule.peak in (0, 1):
            raise ValueError("schedule.peak must be between 0 and 1")
        if self.optimiser.nesterov and not self.optimiser.momentum:
            raise ValueError("optimiser.nesterov needs a momentum above 0")
        edges = [Fraction(0), *self.schedule.periods, Fraction(1)]
        if any(a >= b for a, b in itertools.pairwise(edges)):
            raise ValueError("schedule.periods must be increasing and between 0 and 1")
        epochs, periods = self.training.epochs, self.schedule.periods
        if len({epochs, *(math.ceil(part * epochs) for part in periods)}) <= len(periods):
            raise ValueError(f"training.epochs = {epochs} is too short for {len(periods) + 1} periods")
        if self.threat.eps == 0:
            raise ValueError(
                "threat.eps must be above 0; for training without an attack use the recipe natural"
            )
        if self.threat.eps > (1 if self.threat.norm == "Linf" else 20):
            raise ValueError(
                f"threat.eps {self.threat.eps} is out of range for pixels in [0, 1]: did you mean "
                f"{self.threat.eps}/255?"
            )
        return self


def parse_recipe(table: dict[str, Any]) -> Recipe:
    """Check the fields of a recipe. Raises :class:`UserError`, which names the first wrong field."""
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise _user_error(table.get("name", "?"), error) from None


def _user_error(name: str, error: ValidationError) -> UserError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown("field", where, known_fields())
    if first["type"] == "missing":
        return UserError(f"Recipe {name} gives no value for {where}: add it to the file or with --set.")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "tuple_type":
        message = "expected a list such as [0.5, 0.75]"
    message = message[0].lower() + message[1:] if message.startswith("Input ") else message
    message += "" if message.endswith((".", "?")) else "."
    if not where:
        return UserError(f"Recipe {name}: {message}")
    value = first["input"]
    shown = str(value) if isinstance(value, str | Fraction) else repr(value)
    return UserError(f"{where} = {printable(shown, 100)}: {message}")


def known_fields() -> list[str]:
    """Dotted names of all fields, including those of every objective."""
    from defenses.objectives import objective_ids, objective_module

    fields: list[str] = []
    for top, info in Recipe.model_fields.items():
        section = info.annotation
        if top == "objective":
            params = {f for i in objective_ids() for f in objective_module(i).Params.model_fields}
            fields += [f"objective.{field}" for field in params]
        elif isinstance(section, type) and issubclass(section, Section):
            fields += [f"{top}.{field}" for field in section.model_fields]
        else:
            fields.append(top)
    return sorted(set(fields))
