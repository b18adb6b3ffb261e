"""PGD-k on the cross-entropy: k projected steps from a uniform start; the last iterate counts.

The start is uniform in the ball: per pixel for Linf, by volume for L2 (in high dimension almost on
the sphere, unlike the radius drawn from U(0, 1) in the AWP authors' script).
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
CITATION = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"
LIBRARY = "adversarial-robustness-toolbox"


@dataclass(frozen=True, kw_only=True)
class Params:
    """Steps in fractions of eps: 2/255 at 8/255 in Linf, 15/255 at 128/255 in L2 (Wu et al. 2020)."""

    steps: Annotated[int, Between(1, 100_000)] = 20
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
        model,
        x_NCHW,
        y_N,
        threat,
        steps=params.steps,
        step=step,
        loss="cross-entropy",
        classes=classes,
        seed=seed,
    )
