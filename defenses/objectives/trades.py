"""TRADES: CE(x) + beta KL(p(x) || p(x')) (Zhang et al. 2019); AWP paper, Eq. 2.

p(x) is not detached in the loss: the gradient flows through both arguments of KL, as in the authors' code.
The natural logits of both terms are equal. The authors of TRADES and AWP compute them twice, which changes
BatchNorm's running statistics, and with them the attack, which uses these: ``passes`` is the order of the
passes in train mode.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from defenses.objectives import Forward, ObjectiveParams, PerImage, Terms

NATURAL, ADVERSARIAL = "natural", "adversarial"


class Params(ObjectiveParams):
    beta: float = Field(ge=0)
    passes: Literal["adversarial-natural", "natural-adversarial-natural", "adversarial-natural-natural"]
    """RST authors' code; TRADES authors' code; AWP authors' TRADES code."""


def divergence(natural_NK: Tensor, adversarial_NK: Tensor) -> Tensor:
    """KL(p(x) || p(x')) per image, from logits; shape (N,)."""
    log_p, log_q = F.log_softmax(natural_NK, 1), F.log_softmax(adversarial_NK, 1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def attack_loss(forward: Forward, x_NCHW: Tensor, y: Tensor, params: Params) -> PerImage:
    # The weights do not change during the attack, so one natural pass is enough for all steps.
    with torch.no_grad():
        natural_NK = forward(x_NCHW)
    return lambda logits_NK: divergence(natural_NK, logits_NK)


def loss(forward: Forward, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, params: Params) -> Terms:
    images = {NATURAL: x_NCHW, ADVERSARIAL: adv_NCHW}
    logits = {name: forward(images[name]) for name in params.passes.split("-")}
    adversarial_NK, natural_NK = logits[ADVERSARIAL], logits[NATURAL]
    robust = divergence(natural_NK, adversarial_NK).mean()
    return Terms(F.cross_entropy(natural_NK, y) + params.beta * robust, adversarial_NK)
