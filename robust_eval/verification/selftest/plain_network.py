"""A network trained without any defense, on which planted models are built; its robust accuracy is near 0.

It is trained on scikit-learn's digits in two seconds and reaches 92% clean accuracy; at Linf 0.2 AutoAttack
breaks every image. ``robust_eval`` does not import ``defenses``, and the shipped network of the self-test is
adversarially trained, so that a defect which hides adversarial images would hardly show on it.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval import data
from robust_eval.core.threat import ThreatModel
from robust_eval.data import Split
from robust_eval.models.architectures import digits_cnn

THREAT = ThreatModel("Linf", Fraction(1, 5))
_EPOCHS, _BATCH, _RATE = 10, 64, 4e-3


@cache
def digit_images(split: Split = "test") -> tuple[Tensor, Tensor]:
    """All images (N, 1, 8, 8) in [0, 1] and labels (N,) of a split; not to be changed."""
    return data.load("digits", split=split).tensors()


def plain_network() -> nn.Module:
    """The trained network in eval mode, without parameter gradients: pixels in [0, 1] to ten logits."""
    return _trained()


@cache
def _trained() -> nn.Module:
    x_NCHW, y_N = digit_images("train")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = digits_cnn.build(classes=10, channels=1, image_size=(8, 8))
        optimiser = torch.optim.Adam(network.parameters(), _RATE)
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(len(x_NCHW)).split(_BATCH):
                optimiser.zero_grad()
                F.cross_entropy(network(x_NCHW[chosen]), y_N[chosen]).backward()
                optimiser.step()
    return network.eval().requires_grad_(False)
