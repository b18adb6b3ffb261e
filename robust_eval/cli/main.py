"""The ``robust-eval`` command. Heavy imports happen when a subcommand runs."""

from __future__ import annotations

import typer

from robust_eval.cli.check import check
from robust_eval.cli.compare import compare
from robust_eval.cli.contract import contract
from robust_eval.cli.gate import gate
from robust_eval.cli.landscape.app import landscape_app
from robust_eval.cli.leaderboard import leaderboard_app
from robust_eval.cli.merge import merge
from robust_eval.cli.run import run
from robust_eval.cli.selftest import selftest
from robust_eval.cli.verify import verify
from robust_eval.core import terminal
from robust_eval.core.version_option import add_version_option

app = typer.Typer(
    help="Evaluate the adversarial robustness of image classifiers and publish results that others can "
    "verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example: robust-eval run ckpt.pt --data cifar10 --eps 8/255 --suite full --examples 1000",
)
add_version_option(app)
app.add_typer(leaderboard_app, name="leaderboard")
app.add_typer(landscape_app, name="landscape")


app.command(epilog="Example: robust-eval run ckpt.pt --data cifar10 --suite quick --examples 500")(run)
app.command(epilog="Example: robust-eval merge runs/ckpt-full-1a2b3c4d.shard-*")(merge)
app.command(epilog="Example: robust-eval check ckpt.pt --data cifar10 --diagnose")(check)
app.command(epilog="Example: robust-eval verify result.json --checkpoint ckpt.pt --audit 20")(verify)
app.command(epilog="Example: robust-eval compare runs/at/result.json runs/at-awp/result.json")(compare)
app.command(epilog="Example: robust-eval gate result.json --min-robust 50 --column aa")(gate)
app.command(epilog="Example: robust-eval contract my_attack.py")(contract)
app.command(epilog="Example: robust-eval selftest --only unmodified")(selftest)


@app.command("list")
def list_() -> None:
    """Suites, columns, attack families, architectures and datasets that can be named."""
    from robust_eval.core import discovery
    from robust_eval.models import architectures

    kinds = {
        "suites": discovery.config_ids("suites"),
        "columns": discovery.config_ids("columns"),
        "boards": discovery.config_ids("boards"),
        "attack families": discovery.module_ids("robust_eval.attacks"),
        "architectures": architectures.ids(),
        "datasets": discovery.module_ids("robust_eval.data"),
    }
    console = terminal.console()
    for kind, names in kinds.items():
        console.print(f"[bold]{kind:16}[/bold] {', '.join(names)}")


def main() -> None:
    """Run the command line; see :func:`robust_eval.core.terminal.run_command`."""
    terminal.run_command(app)


if __name__ == "__main__":
    main()
