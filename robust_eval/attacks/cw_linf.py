"""CW-inf: PGD on the unclamped margin max_{k!=y} z_k - z_y, the "CW loss" of the defense papers.

Never clamped (kappa = infinity), so the gradient does not vanish once an image is broken. Not to be
confused with the norm-minimising L-infinity attack of Carlini and Wagner. The name is the field's;
in an L2 threat model the same loss is ascended in the L2 ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

from robust_eval.core.parameters import Between
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
CITATION = "Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017 (loss); PGD"
LIBRARY = "adversarial-robustness-toolbox"


@dataclass(frozen=True, kw_only=True)
class Params:
    """Steps in fractions of eps, as in PGD."""

    steps: Annotated[int, Between(1, 100_000)] = 100
    step_linf: Annotated[Fraction, Between(Fraction(1, 1000), Fraction(10))] = Fraction(1, 4)
    step_l2: Annotated[Fraction, Between(Fraction(1, 1000), Fraction(10))] = Fraction(15, 128)


def cost(params: Params, classes: int) -> Cost:
    return Cost(params.steps, params.steps)


def search(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel,
    params: Params,
    *,
    classes: int,
    seed: int,
) -> Tensor:
    """Candidates (N, C, H, W); see :mod:`robust_eval.attacks` for the contract."""
    from robust_eval.attacks import _art

    step = params.step_linf if threat.norm == "Linf" else params.step_l2
    return _art.pgd(
        model, x_NCHW, y_N, threat, steps=params.steps, step=step, loss="margin", classes=classes, seed=seed
    )
