"""From a recipe's name and the command line to a checked recipe, with the source of every field.

A recipe file may ``extends`` another, holds ``variants`` for data sets (``svhn``), norms (``L2``) or
both (``svhn-L2``), and ``sources`` that say where its numbers come from. Later wins: the parent with
its variants, the file, the file's variants, the command line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defenses.recipes.choices import Choices
from defenses.recipes.recipe import Recipe, known_fields, parse_recipe
from robust_eval.core.discovery import config, config_ids, read_toml
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.threat import parse_norm

Table = dict[str, Any]
NOT_FIELDS = ("extends", "variants", "sources", "architectures")


@dataclass
class ResolvedRecipe:
    recipe: Recipe
    sources: Mapping[str, str] = field(default_factory=dict)
    """Dotted field -> where its value comes from."""


def resolve(name: str, choices: Choices) -> ResolvedRecipe:
    """The recipe ``name`` (an id, or a path to a TOML file) under the command line's choices."""
    typed = list(_typed(choices))
    norm = next((v for k, v in reversed(typed) if k == "threat.norm"), None)
    table, sources = _layer(name, choices.data.partition(":")[0], norm)
    table["name"] = Path(name).stem
    attacked = bool(table.get("inner", {}).get("steps"))
    for dotted, value in typed:
        _check_field(dotted)
        _put(table, dotted, value)
        sources[dotted] = "command line"
    recipe = parse_recipe({k: v for k, v in table.items() if k not in NOT_FIELDS})
    if attacked and not recipe.inner.steps:
        raise UserError(
            f"inner.steps=0 trains on clean images, which is no longer {recipe.name}: use the recipe "
            "natural, or one step or more."
        )
    return ResolvedRecipe(recipe, {d: sources.get(d, "") for d, _ in flatten(recipe.model_dump())})


def read_recipe(name: str) -> Table:
    """A recipe file as it stands."""
    if name.endswith(".toml"):
        return read_toml(Path(name))
    if name not in config_ids("recipes"):
        raise unknown("recipe", name, config_ids("recipes"))
    return config("recipes", name)


def _layer(name: str, data: str, norm: object, seen: tuple[str, ...] = ()) -> tuple[Table, dict[str, str]]:
    """The merged table of a recipe and its parents, and the source of each of its fields."""
    if name in seen:
        raise UserError(f"Recipe {name} extends itself, by way of {' and '.join(seen)}.")
    own = read_recipe(name)
    parent = own.get("extends")
    if not isinstance(parent, str | None):
        raise UserError(f'{name}: extends = {parent} is not a recipe\'s name, such as "at-awp".')
    if parent and parent.endswith(".toml") and name.endswith(".toml"):
        # A file names its neighbours, wherever the command is given.
        parent = str((Path(name).parent / parent).resolve())
    table, sources = _layer(parent, data, norm, (*seen, name)) if parent else ({}, {})
    named = Path(name).stem
    said = {k: str(v) for k, v in own.get("sources", {}).items()}
    table = _merge(table, {k: v for k, v in own.items() if k not in ("extends", "variants", "sources")})
    sources |= {d: _source(named, said, d) for d, _ in flatten(own) if d.split(".")[0] not in NOT_FIELDS}
    if data in table.get("architectures", {}):
        _put(table, "architecture", table["architectures"][data])
        sources["architecture"] = f"this project's network for {data}"
    norm = norm or table.get("threat", {}).get("norm")
    for variant in (data, str(norm), f"{data}-{norm}"):
        extra = own.get("variants", {}).get(variant, {})
        table = _merge(table, {k: v for k, v in extra.items() if k != "sources"})
        said = {k: str(v) for k, v in extra.get("sources", {}).items()}
        sources |= {
            d: _source(f"{named} for {variant}", said, d)
            for d, _ in flatten(extra)
            if not d.startswith("sources.")
        }
    return table, sources


def _source(file: str, said: Mapping[str, str], dotted: str) -> str:
    """The longest entry of a ``sources`` table that covers the field: itself or a section it lies in."""
    covering = [key for key in said if dotted == key or dotted.startswith(f"{key}.")]
    return f"{file}: {said[max(covering, key=len)]}" if covering else f"{file}"


def _typed(choices: Choices) -> Iterator[tuple[str, object]]:
    """The command line as dotted fields and values, ``--set`` last; the last ``--set`` of a field counts."""
    options = {
        "threat.eps": choices.eps,
        "threat.norm": None if choices.norm is None else parse_norm(choices.norm),
        "architecture": choices.arch,
        "training.epochs": choices.epochs,
        "training.batch_size": choices.batch_size,
    }
    options = {dotted: value for dotted, value in options.items() if value is not None}
    yield from options.items()
    for text in choices.sets:
        dotted, equals, value_text = text.partition("=")
        if not equals or not dotted.strip():
            raise UserError(f"--set {text} is not FIELD=VALUE: write for example --set inner.steps=7.")
        dotted, value = dotted.strip(), _value(value_text.strip())
        if dotted in options and str(options[dotted]) != str(value):
            raise UserError(
                f"{dotted} is {options[dotted]} by its own option and {value} by --set: give one."
            )
        yield dotted, value


def _value(text: str) -> object:
    """A TOML value where it reads as one (7, 0.1, true, [0.5, 0.75]), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_field(dotted: str) -> None:
    if dotted not in known_fields() and not dotted.startswith("architecture_arguments."):
        raise unknown("field", dotted, known_fields())


def _put(table: Table, dotted: str, value: object) -> None:
    """Set a field; what belongs to another objective or architecture goes with it."""
    if dotted == "objective.name" and table.get("objective", {}).get("name") != value:
        table["objective"] = {}
    if dotted == "architecture" and table.get("architecture") != value:
        table["architecture_arguments"] = {}
    *path, last = dotted.split(".")
    for part in path:
        table = table.setdefault(part, {})
    table[last] = value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """``over`` laid on ``base``, tables merged. Another objective takes its numbers with it."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        replaces = (
            key == "objective" and isinstance(old, dict) and value.get("name", old["name"]) != old["name"]
        )
        both = isinstance(value, dict) and isinstance(old, dict) and not replaces
        merged[key] = _merge(old or {}, value) if both else value
    return merged


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested tables under its dotted name."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
