"""CW-inf: PGD on the margin loss max_{k != y} z_k - z_y, the "CW loss" of papers on defenses.

The loss is not clamped (kappa = infinity), so its gradient does not vanish once an image is broken. This
is not the norm-minimising L-infinity attack of Carlini and Wagner. In an L2 threat model the same loss
is maximised in the L2 ball, under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from robust_eval.attacks._pgd_params import PGDParams
from robust_eval.core.parameters import Between
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
CITATION = "Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017 (loss); PGD"
LIBRARY = "adversarial-robustness-toolbox"


@dataclass(frozen=True, kw_only=True)
class Params(PGDParams):
    """100 steps by default."""

    steps: Annotated[int, Between(1, 100_000)] = 100


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

    return _art.pgd(model, x_NCHW, y_N, threat, params, loss="margin", classes=classes, seed=seed)
