"""Recipes as tables: the list, and one recipe with the source of every field."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defenses.recipes.resolve import ResolvedRecipe, flatten, read_recipe
from defenses.recipes.schedules import warmup_epochs
from robust_eval.core.discovery import config_ids
from robust_eval.core.threat import format_fraction

HEADINGS = ("name", "title", "citation")


def list_recipes(console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True, style="bold")
    table.add_column("what it is")
    table.add_column("extends", no_wrap=True, style="dim")
    for name in config_ids("recipes"):
        own = read_recipe(name)
        table.add_row(name, escape(own["title"]), own.get("extends", ""))
    console.print(table)


def show_recipe(console: Console, resolved: ResolvedRecipe, data: str) -> None:
    """Every field, its value (with what it comes to), and where it comes from."""
    recipe = resolved.recipe
    console.print(f"[bold]{recipe.name}[/bold]  {escape(recipe.title)}", highlight=False)
    console.print(f"{escape(recipe.citation)}; on {escape(data)}\n", highlight=False)
    meanings = _meanings(resolved)
    table = Table(box=None, pad_edge=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value", no_wrap=True, style="bold")
    table.add_column("source", style="dim", overflow="fold")
    for name, value in flatten(recipe.model_dump(mode="json")):
        if name in HEADINGS:
            continue
        note = f" ({meanings[name]})" if name in meanings else ""
        table.add_row(name, escape(_text(value) + note), escape(resolved.sources.get(name, "")))
    console.print(table)


def _text(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(str(v) for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meanings(resolved: ResolvedRecipe) -> dict[str, str]:
    """What fractions come to under this epsilon and this many epochs."""
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
