"""Recipes as terminal tables: the list of all recipes, and one recipe with the source of every field."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defenses.recipes.recipe import DESCRIPTIVE_FIELDS
from defenses.recipes.resolve import ResolvedRecipe, flatten, read_recipe
from defenses.recipes.schedules import warmup_epochs
from robust_eval.core.discovery import config_ids
from robust_eval.core.threat import format_fraction


def recipe_list() -> Table:
    """Name, title and parent of every recipe in ``configs/recipes``."""
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True, style="bold")
    table.add_column("description")
    table.add_column("extends", no_wrap=True, style="dim")
    for name in config_ids("recipes"):
        own = read_recipe(name)
        table.add_row(name, escape(own["title"]), own.get("extends", ""))
    return table


def print_recipe(console: Console, resolved: ResolvedRecipe, data: str) -> None:
    """Print every field of a recipe with its value, its source, and the meaning of fractions."""
    recipe = resolved.recipe
    console.print(f"[bold]{recipe.name}[/bold]  {escape(recipe.title)}", highlight=False)
    console.print(f"{escape(recipe.citation)}; on {escape(data)}\n", highlight=False)
    meanings = _meanings(resolved)
    table = Table(box=None, pad_edge=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value", no_wrap=True, style="bold")
    table.add_column("source", style="dim", overflow="fold")
    for name, value in flatten(recipe.model_dump(mode="json")):
        if name in DESCRIPTIVE_FIELDS:
            continue
        note = f" ({meanings[name]})" if name in meanings else ""
        table.add_row(name, escape(_text(value) + note), escape(resolved.sources.get(name, "")))
    console.print(table)


def _text(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(str(v) for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meanings(resolved: ResolvedRecipe) -> dict[str, str]:
    """Fractions of epsilon and of the run in absolute terms, by field."""
    recipe = resolved.recipe
    eps, epochs = recipe.threat.eps, recipe.training.epochs
    steps = {"inner": recipe.inner.step_size, "selection": recipe.selection.step_size}
    meanings = {
        f"{section}.step_size": f"{format_fraction(step * eps)} at {format_fraction(eps)}"
        for section, step in steps.items()
    }
    if recipe.perturbation.warmup:
        meanings["perturbation.warmup"] = (
            f"{warmup_epochs(recipe.perturbation.warmup, epochs)} of {epochs} epochs"
        )
    if recipe.schedule.kind == "piecewise":
        drops = ", ".join(f"{float(m * epochs):g}" for m in recipe.schedule.milestones)
        meanings["schedule.milestones"] = f"epochs {drops} of {epochs}"
    return meanings
