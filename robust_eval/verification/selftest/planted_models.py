"""Models that lie, each built to deserve a flag, around the honest network or another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robust_eval.verification.selftest.base_networks import ModifiedNetwork, SmallNetwork


class Softmax(ModifiedNetwork):
    def after(self, z: Tensor) -> Tensor:
        return z.softmax(1)


class SoftmaxTimesTen(ModifiedNetwork):
    def after(self, z: Tensor) -> Tensor:
        return 10 * z.softmax(1)


class OneHot(ModifiedNetwork):
    """Hard labels: no scores, no gradient."""

    def after(self, z: Tensor) -> Tensor:
        return nn.functional.one_hot(z.argmax(1), 10).float()


class RoundedLogits(ModifiedNetwork):
    """Scores to one decimal: ties, steps, and a gradient of zero."""

    def after(self, z: Tensor) -> Tensor:
        return z.round(decimals=1)


class LargeLogits(ModifiedNetwork):
    def after(self, z: Tensor) -> Tensor:
        return 1e5 * z


class NoisyInput(ModifiedNetwork):
    def before(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)


class QuantisedInput(ModifiedNetwork):
    """round(15 x) / 15: its gradient is zero everywhere."""

    def before(self, x: Tensor) -> Tensor:
        return (15 * x).round() / 15


class StraightThroughQuantisedInput(ModifiedNetwork):
    """The same jumps, with a gradient that pretends there are none."""

    def before(self, x: Tensor) -> Tensor:
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
    def before(self, x: Tensor) -> Tensor:
        return x.detach()


class NoGradForward(ModifiedNetwork):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class ZeroGradient(ModifiedNetwork):
    """The function is honest, its backward pass returns zeros."""

    def before(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: 0 * gradient)


class NegatedGradient(ModifiedNetwork):
    """Its backward pass points the wrong way."""

    def before(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: -gradient)


class NoisyGradient(ModifiedNetwork):
    """Its backward pass adds noise of the gradient's own size."""

    def before(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: gradient + gradient.std() * torch.randn_like(gradient))


class TinyGradient(ModifiedNetwork):
    """Its backward pass shrinks the gradient by a hundred million."""

    def before(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: 1e-8 * gradient)


class PurifiedInput(ModifiedNetwork):
    """Moves its input against the entropy of its own prediction before answering."""

    def before(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            p = self.network(leaf).softmax(1)
            (gradient,) = torch.autograd.grad(-(p * p.log()).sum(), leaf)
        return x - 0.01 * gradient


class InputSeededNoise(ModifiedNetwork):
    """Noise that is the same for the same image: it passes every repeat test."""

    def before(self, x: Tensor) -> Tensor:
        weights = torch.arange(1, x[0].numel() + 1).view_as(x[0])
        seeds = (x.detach().cpu().double() * weights).flatten(1).sum(1)
        noise = [
            torch.randn(x[0].shape, generator=torch.Generator().manual_seed(int(s * 1e7))) for s in seeds
        ]
        return x + 0.05 * torch.stack(noise).to(x)


class TrainingModeBatchNorm(nn.Module):
    """BatchNorm that ignores eval()."""

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
    """Subtracts the batch's mean: eval mode, no training flag, still batch dependent."""

    def after(self, z: Tensor) -> Tensor:
        return z - z.mean(0)


class NaNOnHalf(ModifiedNetwork):
    def after(self, z: Tensor) -> Tensor:
        return torch.where(z[:, :1] > z[:, :1].median(), z, torch.tensor(float("nan")).to(z))


class NaNOffGrid(ModifiedNetwork):
    """Answers 8-bit images, and fails on all others."""

    def forward(self, x: Tensor) -> Tensor:
        on_grid = ((255 * x).round() / 255 - x).abs().flatten(1).amax(1) < 1e-6
        return torch.where(on_grid[:, None], super().forward(x), torch.tensor(float("nan")).to(x))


class PixelOffset(ModifiedNetwork):
    """Adds 64 to every pixel and takes it away again: nothing in float32, most of the image in bfloat16."""

    def before(self, x: Tensor) -> Tensor:
        return (x + 64) - 64


class ConstantPrediction(ModifiedNetwork):
    """Names the same class for everything."""

    def after(self, z: Tensor) -> Tensor:
        return 0 * z + torch.arange(10).to(z) - 5


class DriftingModel(ModifiedNetwork):
    """Becomes another function after a number of calls."""

    def __init__(self, network: nn.Module | None = None, calls: int = 52) -> None:
        super().__init__(network)
        self.left = calls

    def after(self, z: Tensor) -> Tensor:
        self.left -= 1
        return z if self.left > 0 else z.roll(1, 1)


class RaisingModel(ModifiedNetwork):
    """Raises an exception at its sixth differentiable pass: an attack in its third batch."""

    passes = 0

    def before(self, x: Tensor) -> Tensor:
        self.passes += x.requires_grad
        if self.passes == 6:
            raise ArithmeticError("planted")
        return x


class CopyMismatch(ModifiedNetwork):
    """Whoever copies it gets another function."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return TrainingModeBatchNorm()


def _largest_tenth(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    flat = output.flatten(1)
    least = flat.topk(max(1, flat.shape[1] // 10), 1).values[:, -1:]
    return (flat * (flat >= least)).view_as(output)


def _near_mean_to_mean(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return torch.where((output - 0.3).abs() < 0.1, torch.tensor(0.3).to(output), output)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def _with_gradient(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``x`` itself, whose gradient is changed on its way back."""
    result: Tensor = _Identity.apply(x, change)
    return result
