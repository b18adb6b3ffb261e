"""Models that lie, each built to deserve one flag, and the honest network they are made from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Honest(nn.Module):
    """A small convolutional network with a fixed random initialisation: nothing to flag."""

    def __init__(self, normalise: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(8) if normalise else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


class Changed(nn.Module):
    """The honest network with something done to its input or output."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Honest()

    def before(self, x: Tensor) -> Tensor:
        return x

    def after(self, z: Tensor) -> Tensor:
        return z

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.network(self.before(x)))


class Softmax(Changed):
    def after(self, z: Tensor) -> Tensor:
        return z.softmax(1)


class SoftmaxTimesTen(Changed):
    def after(self, z: Tensor) -> Tensor:
        return 10 * z.softmax(1)


class Saturated(Changed):
    def after(self, z: Tensor) -> Tensor:
        return 1e5 * z


class NoisyInput(Changed):
    def before(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)


class Quantised(Changed):
    """round(15 x) / 15: its gradient is zero everywhere."""

    def before(self, x: Tensor) -> Tensor:
        return (15 * x).round() / 15


class StraightThrough(Changed):
    """The same jumps, with a gradient that pretends there are none."""

    def before(self, x: Tensor) -> Tensor:
        return x + ((15 * x).round() / 15 - x).detach()


class Detached(Changed):
    def before(self, x: Tensor) -> Tensor:
        return x.detach()


class NoGrad(Changed):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class InputSeeded(Changed):
    """Noise that is the same for the same image: it passes every repeat test."""

    def before(self, x: Tensor) -> Tensor:
        seeds = (x.double() * torch.arange(1, x[0].numel() + 1).view_as(x[0])).flatten(1).sum(1)
        noise = [
            torch.randn(x[0].shape, generator=torch.Generator().manual_seed(int(s * 1e7))) for s in seeds
        ]
        return x + 0.05 * torch.stack(noise)


class BatchStatistics(nn.Module):
    """BatchNorm that ignores eval()."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Honest(normalise=True)

    def train(self, mode: bool = True) -> BatchStatistics:
        del mode
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


class BatchMean(Changed):
    """Subtracts the batch's mean: eval mode, no training flag, still batch dependent."""

    def after(self, z: Tensor) -> Tensor:
        return z - z.mean(0)


class NaNSometimes(Changed):
    def after(self, z: Tensor) -> Tensor:
        return torch.where(z[:, :1] > z[:, :1].median(), z, torch.tensor(float("nan")))


PLANTS: dict[type[nn.Module], set[str]] = {
    Softmax: {"probabilities"},
    SoftmaxTimesTen: {"probabilities"},
    Saturated: {"saturated-logits"},
    NoisyInput: {"random-outputs"},
    Quantised: {"discontinuous", "no-gradients"},
    StraightThrough: {"discontinuous"},
    Detached: {"no-gradients"},
    NoGrad: {"no-gradients"},
    InputSeeded: {"discontinuous"},
    BatchStatistics: {"train-mode", "batch-dependent"},
    BatchMean: {"batch-dependent"},
    NaNSometimes: {"non-finite-outputs"},
}
