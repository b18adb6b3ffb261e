"""Parse ``--over perturbation.gamma=0,1e-3,5e-3`` and build the grid of all combinations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from defenses.recipes.recipe import known_fields
from robust_eval.core.errors import UserError, unknown

# Symbols of the AWP paper (Algorithm 2), and the common name of the perturbation's size.
ALIASES: Mapping[str, str] = {
    "A": "perturbation.alternations",
    "K1": "inner.steps",
    "K2": "perturbation.steps",
    "norm": "perturbation.size",
}


@dataclass(frozen=True)
class Axis:
    """One swept field of the recipe and its values."""

    field: str
    """Dotted name, as in a recipe."""
    values: tuple[str, ...]

    @property
    def short(self) -> str:
        """The last part of the name: ``gamma`` for ``perturbation.gamma``."""
        return self.field.rpartition(".")[2]


@dataclass(frozen=True)
class GridPoint:
    """One recipe at one combination of values; each seed of it is a run."""

    recipe: str
    values: tuple[tuple[str, str], ...]
    """(field, value) in the order of the axes."""

    @property
    def sets(self) -> tuple[str, ...]:
        """The values as arguments of ``--set``."""
        return tuple(f"{field}={value}" for field, value in self.values)

    def folder(self, seed: int) -> str:
        """Name of the run folder, such as ``at-awp-gamma-0.005-s0``."""
        stem = self.recipe.rpartition("/")[2].removesuffix(".toml")
        parts = [stem, *(f"{field.rpartition('.')[2]}-{value}" for field, value in self.values), f"s{seed}"]
        return "-".join("".join(c if c.isalnum() or c in "._+-" else "-" for c in part) for part in parts)


def parse_axis(text: str) -> Axis:
    """Parse ``FIELD=VALUE,VALUE``; see :func:`field_name` for the accepted names of a field."""
    name, equals, listed = text.partition("=")
    values = tuple(value.strip() for value in listed.split(","))
    if not equals or not all(values):
        raise UserError(
            f"--over {text} is not FIELD=VALUE,VALUE: write for example --over perturbation.gamma=0,0.005."
        )
    if len(set(values)) < len(values):
        raise UserError(f"--over {text} names a value twice: each value is one point.")
    return Axis(field_name(name.strip()), values)


def field_name(name: str) -> str:
    """The full name of a recipe's field, given in full, by its last part, or by the paper's symbol.

    Raises :class:`UserError` if no field or more than one field matches.
    """
    known = known_fields()
    section, dot, last = name.rpartition(".")
    if section.lower() in ("awp", "rwp"):
        name = ALIASES.get(last, f"perturbation.{last}")
    elif not dot:
        name = ALIASES.get(name, name)
    if name in known or name.startswith("architecture_arguments."):
        return name
    matches = [dotted for dotted in known if dotted.endswith(f".{name}")]
    if len(matches) > 1:
        raise UserError(
            f"--over {name} could be {', '.join(matches[:-1])} or {matches[-1]}: write one of them."
        )
    if matches:
        return matches[0]
    raise unknown("field", name, known)


def grid(recipes: Sequence[str], axes: Sequence[Axis]) -> list[GridPoint]:
    """Every recipe at every combination of values."""
    fields = [axis.field for axis in axes]
    repeated = [field for field in fields if fields.count(field) > 1]
    if repeated:
        raise UserError(f"--over names {repeated[0]} twice: give all its values in one list.")
    combinations = itertools.product(*(axis.values for axis in axes))
    pairs = [tuple(zip(fields, values, strict=True)) for values in combinations]
    return [GridPoint(recipe, values) for recipe in dict.fromkeys(recipes) for values in pairs]
