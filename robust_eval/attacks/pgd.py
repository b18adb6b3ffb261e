"""PGD-k on the cross-entropy: k projected steps from one random start; returns the last iterate.

The start is uniform in the ball: per pixel for Linf, by volume for L2 (in high dimension almost on
the sphere, unlike the script of the AWP authors, which draws the radius from U(0, 1)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_eval.attacks._pgd_params import PGDParams
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
CITATION = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"
LIBRARY = "adversarial-robustness-toolbox"


@dataclass(frozen=True, kw_only=True)
class Params(PGDParams):
    """20 steps by default."""


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
    """Adversarial images (N, C, H, W); see :mod:`robust_eval.attacks` for the contract."""
    from robust_eval.attacks import _art

    return _art.pgd(model, x_NCHW, y_N, threat, params, loss="cross-entropy", classes=classes, seed=seed)
