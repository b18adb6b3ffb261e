"""FGSM: one step of size epsilon along the sign of the cross-entropy gradient, from the clean image.

In L2 the step has the direction of the gradient. Images are clipped to [0, 1]; no random start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
CITATION = "Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015"
LIBRARY = "adversarial-robustness-toolbox"


@dataclass(frozen=True, kw_only=True)
class Params:
    """FGSM has no parameters."""


def cost(params: Params, classes: int) -> Cost:
    return Cost(1, 1)


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

    return _art.fgsm(model, x_NCHW, y_N, threat, classes=classes, seed=seed)
