"""TRADES: CE(x) + beta KL(p(x) || p(x')) (Zhang et al. 2019); AWP paper, Eq. 2.

p(x) is not detached in the loss: the gradient flows through both of KL's arguments, as in the
authors' code. The natural logits serve both terms, so there are two forwards, x' first: the order
of the RST authors' code. (TRADES' own code makes a second natural forward, which changes nothing
but BatchNorm's running statistics.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from defenses.objectives import Forward, ObjectiveParams, PerImage, Terms


class Params(ObjectiveParams):
    beta: float = Field(ge=0)


def divergence(natural_NK: Tensor, adversarial_NK: Tensor) -> Tensor:
    """KL(p(x) || p(x')) per image, from logits; shape (N,)."""
    log_p, log_q = F.log_softmax(natural_NK, 1), F.log_softmax(adversarial_NK, 1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def attack_loss(forward: Forward, x_NCHW: Tensor, y: Tensor, params: Params) -> PerImage:
    # The weights stand still during the attack, so one natural forward serves all of its steps.
    with torch.no_grad():
        natural_NK = forward(x_NCHW)
    return lambda logits_NK: divergence(natural_NK, logits_NK)


def loss(forward: Forward, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, params: Params) -> Terms:
    adversarial_NK = forward(adv_NCHW)
    natural_NK = forward(x_NCHW)
    robust = divergence(natural_NK, adversarial_NK).mean()
    return Terms(F.cross_entropy(natural_NK, y) + params.beta * robust, adversarial_NK)
