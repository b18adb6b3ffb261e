"""Small networks of several kinds, adversarially trained on scikit-learn's digits in some seconds each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.norms import norm_per_image, project
from robust_eval.core.threat import Norm, ThreatModel
from robust_eval.verification.selftest.plain_network import digit_images

EPOCHS, BATCH, RATE, ATTACK_STEPS = 12, 64, 4e-3, 4
WIDTH = 24


class VisionTransformer(nn.Module):
    """Sixteen 2x2 patches, two blocks with four heads, width 48; for images of 8x8 grey pixels."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) in [0, 1] to logits (N, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def _convolutional(norm: Callable[[], nn.Module], activation: Callable[[], nn.Module]) -> nn.Module:
    """Three convolutions, each followed by a normalisation and an activation, and a linear layer."""
    layers: list[nn.Module] = []
    for channels, stride in ((1, 1), (WIDTH, 2), (WIDTH, 1)):
        layers += [nn.Conv2d(channels, WIDTH, 3, stride, 1), norm(), activation()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTH * 16, 10))


def _batch_norm() -> nn.Module:
    return nn.BatchNorm2d(WIDTH)


def _group_norm() -> nn.Module:
    return nn.GroupNorm(4, WIDTH)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "BatchNorm and ReLU": lambda: _convolutional(_batch_norm, nn.ReLU),
    "GroupNorm and ReLU": lambda: _convolutional(_group_norm, nn.ReLU),
    "BatchNorm and SiLU": lambda: _convolutional(_batch_norm, nn.SiLU),
    "GroupNorm and GELU": lambda: _convolutional(_group_norm, nn.GELU),
    "ReLU": lambda: _convolutional(nn.Identity, nn.ReLU),
    "in-place ReLU": lambda: _convolutional(nn.Identity, lambda: nn.ReLU(inplace=True)),
    "SiLU": lambda: _convolutional(nn.Identity, nn.SiLU),
    "GELU": lambda: _convolutional(nn.Identity, nn.GELU),
    "dropout and max pooling": lambda: nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(WIDTH, WIDTH, 3, 1, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(WIDTH * 16, 10),
    ),
    "small ViT": VisionTransformer,
}
"""Name to a function that builds the network: images (N, 1, 8, 8) in [0, 1] to logits (N, 10)."""


def train(name: str, threat: ThreatModel, *, epochs: int = EPOCHS) -> nn.Module:
    """A network of NETWORKS after adversarial training (Madry et al. 2018), in eval mode.

    Epsilon rises linearly during the first half; otherwise the ViT learns nothing.
    """
    x_NCHW, y_N = digit_images("train")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = NETWORKS[name]()
        optimiser = torch.optim.Adam(network.parameters(), RATE if name != "small ViT" else RATE / 2)
        steps = epochs * -(-len(x_NCHW) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        done = 0
        for _ in range(epochs):
            for chosen in torch.randperm(len(x_NCHW)).split(BATCH):
                x, y = x_NCHW[chosen], y_N[chosen]
                radius = threat.radius * min(1.0, 2 * done / steps)
                adv = _attacked(network.eval(), x, y, threat.norm, radius)
                done += 1
                optimiser.zero_grad()
                F.cross_entropy(network.train()(adv), y).backward()
                optimiser.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def _attacked(network: nn.Module, x: Tensor, y: Tensor, norm: Norm, radius: float) -> Tensor:
    """PGD on the cross-entropy from a random start."""
    adv = (x + project(radius * (2 * torch.rand_like(x) - 1), norm, radius)).clamp(0, 1)
    for _ in range(ATTACK_STEPS):
        leaf = adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(leaf), y, reduction="sum"), leaf)
        length = norm_per_image(gradient, "L2").clamp_min(1e-12).view(-1, 1, 1, 1)
        direction = gradient.sign() if norm == "Linf" else gradient / length
        adv = (x + project(adv + 0.5 * radius * direction - x, norm, radius)).clamp(0, 1)
    return adv.detach()
