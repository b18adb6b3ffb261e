"""MART: boosted cross-entropy on x' plus KL weighted by 1 - p_y(x) (Wang et al. 2020); AWP paper, Eq. 3.

The constants inside the logarithms, and p(x) not being detached, follow the authors' code. With AWP every
term is evaluated at w+v; the w in one place of the paper's Appendix D.3 is a misprint.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from defenses.objectives import Forward, ObjectiveParams, PerImage, Terms


class Params(ObjectiveParams):
    beta: float = Field(ge=0)
    """lambda in the paper."""


def boosted_cross_entropy(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """-log p_y - log(1 - the largest other probability), per image; shape (N,)."""
    others_N = F.softmax(logits_NK, 1).scatter(1, y_N[:, None], -1.0).amax(1)
    return F.cross_entropy(logits_NK, y_N, reduction="none") - (1.0001 - others_N + 1e-12).log()


def weighted_divergence(natural_NK: Tensor, adversarial_NK: Tensor, y_N: Tensor) -> Tensor:
    """KL(p(x) || p(x')) (1 - p_y(x)), per image; shape (N,).

    log p(x) is computed from the logits: the logarithm of a probability that underflowed to 0 would give
    NaN gradients.
    """
    log_p_NK = F.log_softmax(natural_NK, 1)
    p_NK = log_p_NK.exp()
    kl_N = (p_NK * (log_p_NK - (F.softmax(adversarial_NK, 1) + 1e-12).log())).sum(1)
    return kl_N * (1.0000001 - p_NK.gather(1, y_N[:, None])[:, 0])


def attack_loss(forward: Forward, x_NCHW: Tensor, y: Tensor, params: Params) -> PerImage:
    return lambda logits_NK: F.cross_entropy(logits_NK, y, reduction="none")


def loss(forward: Forward, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, params: Params) -> Terms:
    natural_NK = forward(x_NCHW)
    adversarial_NK = forward(adv_NCHW)
    robust = weighted_divergence(natural_NK, adversarial_NK, y).mean()
    return Terms(boosted_cross_entropy(adversarial_NK, y).mean() + params.beta * robust, adversarial_NK)
