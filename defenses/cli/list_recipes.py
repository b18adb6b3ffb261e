"""``defenses list``: list the recipes."""

from __future__ import annotations


def list_recipes() -> None:
    """List the recipes, and which recipe each one extends."""
    from defenses.cli.recipe_tables import recipe_list
    from robust_eval.core import terminal

    terminal.console().print(recipe_list())
