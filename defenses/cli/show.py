"""``defenses show``: print a recipe with the source of every value."""

from __future__ import annotations

from defenses.cli.options import Recipe
from defenses.recipes.choices import Choices
from robust_eval.core.command_options import expand_options


@expand_options
def show(recipe: Recipe, choices: Choices) -> None:
    """Print a recipe with all values resolved, and the source of each value."""
    from defenses.cli.recipe_tables import print_recipe
    from defenses.recipes.resolve import resolve
    from robust_eval.core import terminal

    print_recipe(terminal.console(), resolve(recipe, choices), choices.data)
