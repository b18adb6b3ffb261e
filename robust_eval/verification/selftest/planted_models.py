"""Models with a planted defect; each must raise a known flag. Built on :class:`SmallNetwork` or another."""

from __future__ import annotations

from copy import deepcopy
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn

from robust_eval.verification.selftest.base_networks import ModifiedNetwork, SmallNetwork
from robust_eval.verification.selftest.planted_outputs import called_by_attack


class Softmax(ModifiedNetwork):
    """Returns probabilities."""

    def change_output(self, z: Tensor) -> Tensor:
        return z.softmax(1)


class SoftmaxTimesTen(ModifiedNetwork):
    """Returns ten times the probabilities."""

    def change_output(self, z: Tensor) -> Tensor:
        return 10 * z.softmax(1)


class OneHot(ModifiedNetwork):
    """Returns hard labels, which have no gradient."""

    def change_output(self, z: Tensor) -> Tensor:
        return nn.functional.one_hot(z.argmax(1), 10).float()


class RoundedLogits(ModifiedNetwork):
    """Rounds logits to one decimal, which makes the gradient zero."""

    def change_output(self, z: Tensor) -> Tensor:
        return z.round(decimals=1)


class LargeLogits(ModifiedNetwork):
    """Multiplies logits by 100,000: cross-entropy underflows."""

    def change_output(self, z: Tensor) -> Tensor:
        return 1e5 * z


class NoisyInput(ModifiedNetwork):
    """Adds random noise to the input."""

    def change_input(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)


class QuantisedInput(ModifiedNetwork):
    """Rounds the input to 16 levels; the gradient is zero everywhere."""

    def change_input(self, x: Tensor) -> Tensor:
        return (15 * x).round() / 15


class StraightThroughQuantisedInput(ModifiedNetwork):
    """Rounds the input to 16 levels, with the identity as its gradient."""

    def change_input(self, x: Tensor) -> Tensor:
        return x + ((15 * x).round() / 15 - x).detach()


class KWinnersTakeAll(ModifiedNetwork):
    """Keeps the largest tenth of the features (k-WTA, Xiao et al. 2020)."""

    def __init__(self) -> None:
        network = SmallNetwork(width=64)
        network.body[2].register_forward_hook(_largest_tenth)
        super().__init__(network)


class SparsifiedFeatures(ModifiedNetwork):
    """Sets features near a fixed mean to that mean (after MeanSparse, Amini et al. 2024)."""

    def __init__(self) -> None:
        network = SmallNetwork(width=64)
        network.body[2].register_forward_hook(_near_mean_to_mean)
        super().__init__(network)


class DetachedInput(ModifiedNetwork):
    """Detaches the input from the graph."""

    def change_input(self, x: Tensor) -> Tensor:
        return x.detach()


class NoGradForward(ModifiedNetwork):
    """Runs the forward pass under ``no_grad``."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class PurifiedInput(ModifiedNetwork):
    """Reduces the entropy of its prediction by a gradient step on the input before classifying it."""

    def change_input(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            p = self.network(leaf).softmax(1)
            (gradient,) = torch.autograd.grad(-(p * p.log()).sum(), leaf)
        return x - 0.01 * gradient


class InputSeededNoise(ModifiedNetwork):
    """Adds noise seeded by the image, so that repeated passes agree."""

    def change_input(self, x: Tensor) -> Tensor:
        weights = torch.arange(1, x[0].numel() + 1).view_as(x[0])
        seeds = (x.detach().cpu().double() * weights).flatten(1).sum(1)
        noise = [
            torch.randn(x[0].shape, generator=torch.Generator().manual_seed(int(s * 1e7))) for s in seeds
        ]
        return x + 0.05 * torch.stack(noise).to(x)


class TrainingModeBatchNorm(nn.Module):
    """BatchNorm stays in training mode after eval()."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallNetwork(normalise=True)

    def train(self, mode: bool = True) -> TrainingModeBatchNorm:
        del mode
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


class BatchMeanSubtracted(ModifiedNetwork):
    """Subtracts the mean logits of the batch: depends on the batch although in eval mode."""

    def change_output(self, z: Tensor) -> Tensor:
        return z - z.mean(0)


class NaNOnHalf(ModifiedNetwork):
    """Returns NaN for half of the images."""

    def change_output(self, z: Tensor) -> Tensor:
        return torch.where(z[:, :1] > z[:, :1].median(), z, torch.tensor(float("nan")).to(z))


class NaNOffGrid(ModifiedNetwork):
    """Returns NaN for images that are not on the 8-bit grid."""

    def forward(self, x: Tensor) -> Tensor:
        on_grid = ((255 * x).round() / 255 - x).abs().flatten(1).amax(1) < 1e-6
        return torch.where(on_grid[:, None], super().forward(x), torch.tensor(float("nan")).to(x))


class PixelOffset(ModifiedNetwork):
    """Adds and subtracts 64: no effect in float32, but loses most of the image in bfloat16."""

    def change_input(self, x: Tensor) -> Tensor:
        return (x + 64) - 64


class ConstantPrediction(ModifiedNetwork):
    """Predicts the same class for every image."""

    def change_output(self, z: Tensor) -> Tensor:
        return 0 * z + torch.arange(10).to(z) - 5


class DriftingModel(ModifiedNetwork):
    """Computes another function, as all of its copies do, once an attack has called one of them."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.drifted = Event()

    def change_output(self, z: Tensor) -> Tensor:
        if called_by_attack():
            self.drifted.set()
        return z.roll(1, 1) if self.drifted.is_set() else z

    def __deepcopy__(self, memo: dict[int, Any]) -> DriftingModel:
        copied = DriftingModel(deepcopy(self.network, memo))
        copied.drifted = self.drifted
        return copied


class RaisingModel(ModifiedNetwork):
    """Its copy for the attacks raises an exception in the third differentiable pass: the third batch."""

    passes: int | None = None

    def change_input(self, x: Tensor) -> Tensor:
        if self.passes is not None:
            self.passes += x.requires_grad
            if self.passes == 3:
                raise ArithmeticError("planted")
        return x

    def __deepcopy__(self, memo: dict[int, Any]) -> RaisingModel:
        copied = RaisingModel(deepcopy(self.network, memo))
        copied.passes = 0
        return copied


class CopyMismatch(ModifiedNetwork):
    """Its deep copy computes another function."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return TrainingModeBatchNorm()


def _largest_tenth(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    flat = output.flatten(1)
    least = flat.topk(max(1, flat.shape[1] // 10), 1).values[:, -1:]
    return (flat * (flat >= least)).view_as(output)


def _near_mean_to_mean(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return torch.where((output - 0.3).abs() < 0.1, torch.tensor(0.3).to(output), output)
