"""The ``defenses`` command: its subcommands, and how errors are printed."""

from __future__ import annotations

import typer

from defenses.cli.curves import curves
from defenses.cli.list_recipes import list_recipes
from defenses.cli.pseudo_label import pseudo_label
from defenses.cli.show import show
from defenses.cli.sweep import sweep
from defenses.cli.table import table
from defenses.cli.train import train
from robust_eval.core import terminal
from robust_eval.core.version_option import add_version_option

app = typer.Typer(
    help="Train the defenses of the AWP paper and its comparisons, with and without weight perturbation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example: defenses train trades-awp --data cifar10 --arch preact-resnet-18",
)
add_version_option(app)
app.command("list")(list_recipes)
app.command(epilog="Example: defenses show trades-awp --data mnist")(show)
app.command(epilog="Example: defenses train at-awp --data digits --seeds 0,1,2")(train)
app.command(epilog="Example: defenses pseudo-label natural/best.pt --data npz:more.npz --out labelled.npz")(
    pseudo_label
)
app.command(epilog="Example: defenses sweep at-awp --over awp.gamma=0,1e-3,5e-3,1e-2 --data digits")(sweep)
app.command(epilog="Example: defenses curves runs/at runs/at-awp --out gap")(curves)
app.command(epilog="Example: defenses table 1 runs --out table1")(table)


def main() -> None:
    """Run the command line; see :func:`robust_eval.core.terminal.run_command`."""
    terminal.run_command(app)


if __name__ == "__main__":
    main()
