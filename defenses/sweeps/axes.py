"""``--over perturbation.gamma=0,1e-3,5e-3``: which fields take which values. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from defenses.recipes.recipe import known_fields
from robust_eval.core.errors import UserError, unknown

# The AWP paper's letters (Algorithm 2), and what people call these fields.
ALIASES: Mapping[str, str] = {
    "A": "perturbation.alternations",
    "K1": "inner.steps",
    "K2": "perturbation.steps",
    "norm": "perturbation.size",
}


@dataclass(frozen=True)
class Axis:
    field: str
    """Dotted, as in a recipe."""
    values: tuple[str, ...]

    @property
    def short(self) -> str:
        """``gamma`` of ``perturbation.gamma``."""
        return self.field.rpartition(".")[2]


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid; several seeds of it are several runs."""

    recipe: str
    values: tuple[tuple[str, str], ...]
    """(field, value) in the order of the axes."""

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(f"{field}={value}" for field, value in self.values)

    def folder(self, seed: int) -> str:
        """``at-awp-gamma-0.005-s0``."""
        stem = self.recipe.rpartition("/")[2].removesuffix(".toml")
        parts = [stem, *(f"{field.rpartition('.')[2]}-{value}" for field, value in self.values), f"s{seed}"]
        return "-".join("".join(c if c.isalnum() or c in "._+-" else "-" for c in part) for part in parts)


def parse_axis(text: str) -> Axis:
    """``awp.gamma=0,1e-3``: a field by its name, its last part, or the paper's letter, and its values."""
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
    """The recipe's own name of a field; a UserError, with a suggestion, for none or several."""
    known = known_fields()
    section, dot, last = name.rpartition(".")
    if section.lower() in ("awp", "rwp"):
        name = ALIASES.get(last, f"perturbation.{last}")
    elif not dot:
        name = ALIASES.get(name, name)
    if name in known or name.startswith("architecture_arguments."):
        return name
    ends = [dotted for dotted in known if dotted.endswith(f".{name}")]
    if len(ends) > 1:
        raise UserError(f"--over {name} could be {', '.join(ends[:-1])} or {ends[-1]}: write one of them.")
    if ends:
        return ends[0]
    raise unknown("field", name, known)


def grid(recipes: Sequence[str], axes: Sequence[Axis]) -> list[GridPoint]:
    """Every recipe at every combination of values."""
    twice = [axis.field for axis in axes if [a.field for a in axes].count(axis.field) > 1]
    if twice:
        raise UserError(f"--over names {twice[0]} twice: give all its values in one list.")
    combinations = itertools.product(*(axis.values for axis in axes))
    pairs = [tuple(zip((axis.field for axis in axes), values, strict=True)) for values in combinations]
    return [GridPoint(recipe, values) for recipe in dict.fromkeys(recipes) for values in pairs]
