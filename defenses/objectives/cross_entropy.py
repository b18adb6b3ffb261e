"""Cross-entropy on the adversarial images: AT (Madry et al. 2018); AWP paper, Eq. 1.

With no inner steps the adversarial images are the natural ones, which is standard training.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from defenses.objectives import Forward, ObjectiveParams, PerImage, Terms


class Params(ObjectiveParams):
    pass


def attack_loss(forward: Forward, x_NCHW: Tensor, y: Tensor, params: Params) -> PerImage:
    return lambda logits_NK: F.cross_entropy(logits_NK, y, reduction="none")


def loss(forward: Forward, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, params: Params) -> Terms:
    logits_NK = forward(adv_NCHW)
    return Terms(F.cross_entropy(logits_NK, y), logits_NK)
