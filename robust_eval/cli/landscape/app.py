"""The subcommands of ``robust-eval landscape``."""

from __future__ import annotations

import typer

from robust_eval.cli.landscape.connectivity import connectivity
from robust_eval.cli.landscape.curve import curve
from robust_eval.cli.landscape.hessian import hessian
from robust_eval.cli.landscape.linear import linear
from robust_eval.cli.landscape.perturbation import perturbation
from robust_eval.cli.landscape.plane import plane
from robust_eval.cli.landscape.scattering import scattering
from robust_eval.cli.landscape.weights import weights

HELP = "Measure the adversarial loss as a function of the weights: flatness, sharpness, connectivity."

landscape_app = typer.Typer(help=HELP, no_args_is_help=True)

_EXAMPLE = "Example: robust-eval landscape"

landscape_app.command(epilog=f"{_EXAMPLE} curve at.pt at-awp.pt --examples 500 --points 11")(curve)
landscape_app.command(epilog=f"{_EXAMPLE} plane at.pt at-awp.pt --examples 300")(plane)
landscape_app.command(epilog=f"{_EXAMPLE} perturbation at.pt --gammas 1e-3,1e-2,1e-1")(perturbation)
landscape_app.command(epilog=f"{_EXAMPLE} weights at.pt at-awp.pt")(weights)
landscape_app.command(epilog=f"{_EXAMPLE} hessian at.pt at-awp.pt --count 5")(hessian)
landscape_app.command(epilog=f"{_EXAMPLE} scattering at.pt natural.pt --eps 0.1")(scattering)
landscape_app.command(epilog=f"{_EXAMPLE} connectivity seed0.pt seed1.pt")(connectivity)
landscape_app.command(epilog=f"{_EXAMPLE} linear --data digits --classes 3,8")(linear)
