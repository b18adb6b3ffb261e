"""Resolve a recipe's name and the command line into a checked recipe, with the source of every field.

A recipe file may name a parent (``extends``), and may contain ``variants`` for datasets (``svhn``), norms
(``L2``) or both (``svhn-L2``), and ``sources`` of its values. Later values override earlier ones, in the
order: the parent with its variants, the file, the file's variants, the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defenses.recipes.choices import Choices
from defenses.recipes.recipe import Recipe, known_fields, parse_recipe
from robust_eval.core import strict_toml
from robust_eval.core.discovery import config, config_ids
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.threat import parse_norm

Table = dict[str, Any]
_MOST_PARENTS = 16
NOT_FIELDS = ("extends", "variants", "sources", "architectures")


@dataclass
class ResolvedRecipe:
    """A checked recipe and the source of each of its values."""

    recipe: Recipe
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source of each value, by dotted field."""


def resolve(name: str, choices: Choices) -> ResolvedRecipe:
    """Resolve the recipe ``name`` (an id, or a path to a TOML file) with the command line's choices.

    Raises :class:`UserError` for unknown recipes and fields, and for values that cannot be used.
    """
    overrides = list(_overrides(choices))
    norm = next((v for k, v in reversed(overrides) if k == "threat.norm"), None)
    table, sources = _layer(name, choices.data.partition(":")[0], norm)
    table["name"] = Path(name).stem
    attacked = bool(table.get("inner", {}).get("steps"))
    for dotted, value in overrides:
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
    """Read a recipe file, without resolving ``extends`` and ``variants``."""
    if name.endswith(".toml"):
        table = strict_toml.read(Path(name))
        _check_tables(table, name)
        return table
    if name not in config_ids("recipes"):
        raise unknown("recipe", name, config_ids("recipes"))
    table = config("recipes", name)
    _check_tables(table, name)
    return table


def _check_tables(table: Table, name: str) -> None:
    """Raise :class:`UserError` if a section of a recipe, or of one of its variants, is not a table."""
    sections = {dotted.partition(".")[0] for dotted in known_fields() if "." in dotted}
    for key, value in table.items():
        wanted = key in sections or key in (*NOT_FIELDS[1:], "architecture_arguments")
        if wanted and not isinstance(value, dict):
            raise UserError(f"{name}: {key} must be a table: write [{key}] above its fields.")
    for key, variant in table.get("variants", {}).items():
        if not isinstance(variant, dict):
            raise UserError(f"{name}: variants.{key} must be a table: write [variants.{key}].")
        _check_tables({field: value for field, value in variant.items() if field != "variants"}, name)


def _layer(name: str, data: str, norm: object, seen: tuple[str, ...] = ()) -> tuple[Table, dict[str, str]]:
    """The merged table of a recipe and its parents, and the source of each of its fields."""
    if len(seen) > _MOST_PARENTS:
        raise UserError(f"Recipe {name} has more than {_MOST_PARENTS} parents: join some of the files.")
    if name in seen:
        raise UserError(
            f"Recipe {name} extends itself (through {' and '.join(seen)}): change one of the files."
        )
    own = read_recipe(name)
    parent = own.get("extends")
    if not isinstance(parent, str | None):
        raise UserError(f'{name}: extends = {parent} is not a recipe\'s name, such as "at-awp".')
    if parent and parent.endswith(".toml") and name.endswith(".toml"):
        # Relative to the file, not to the current folder.
        parent = str((Path(name).parent / parent).resolve())
    table, sources = _layer(parent, data, norm, (*seen, name)) if parent else ({}, {})
    named = Path(name).stem
    stated = {k: str(v) for k, v in own.get("sources", {}).items()}
    table = _merge(table, {k: v for k, v in own.items() if k not in ("extends", "variants", "sources")})
    sources |= {d: _source(named, stated, d) for d, _ in flatten(own) if d.split(".")[0] not in NOT_FIELDS}
    if data in table.get("architectures", {}):
        _put(table, "architecture", table["architectures"][data])
        sources["architecture"] = f"this project's network for {data}"
    norm = norm or table.get("threat", {}).get("norm")
    for variant in (data, str(norm), f"{data}-{norm}"):
        extra = own.get("variants", {}).get(variant, {})
        table = _merge(table, {k: v for k, v in extra.items() if k != "sources"})
        stated = {k: str(v) for k, v in extra.get("sources", {}).items()}
        sources |= {
            d: _source(f"{named} for {variant}", stated, d)
            for d, _ in flatten(extra)
            if not d.startswith("sources.")
        }
    return table, sources


def _source(file: str, stated: Mapping[str, str], dotted: str) -> str:
    """The most specific entry of a ``sources`` table for a field: the field itself, or its section."""
    covering = [key for key in stated if dotted == key or dotted.startswith(f"{key}.")]
    return f"{file}: {stated[max(covering, key=len)]}" if covering else f"{file}"


def _overrides(choices: Choices) -> Iterator[tuple[str, object]]:
    """Dotted fields and values of the command line; ``--set`` last, in the order given."""
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
                f"{dotted} is {options[dotted]} by its own option and {value} by --set: give only one."
            )
        yield dotted, value


def _value(text: str) -> object:
    """The text as a TOML value (7, 0.1, true, [0.5, 0.75]) if it is one, else the text itself."""
    try:
        return strict_toml.loads(f"value = {text}", "--set")["value"]
    except UserError:
        return text


def _check_field(dotted: str) -> None:
    if dotted not in known_fields() and not dotted.startswith("architecture_arguments."):
        raise unknown("field", dotted, known_fields())


def _put(table: Table, dotted: str, value: object) -> None:
    """Set a field; a new objective or architecture removes the arguments of the old one."""
    if dotted == "objective.name" and table.get("objective", {}).get("name") != value:
        table["objective"] = {}
    if dotted == "architecture" and table.get("architecture") != value:
        table["architecture_arguments"] = {}
    *path, last = dotted.split(".")
    for part in path:
        table = table.setdefault(part, {})
    table[last] = value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """``base`` updated with ``over``, recursively; a new objective removes the fields of the old one."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        replaces = (
            key == "objective"
            and isinstance(old, dict)
            and value.get("name", old.get("name")) != old.get("name")
        )
        both = isinstance(value, dict) and isinstance(old, dict) and not replaces
        merged[key] = _merge(old or {}, value) if both else value
    return merged


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables with their dotted names."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
