"""Models with a planted defect in the backward pass; the forward pass is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.verification.selftest.base_networks import ModifiedNetwork, SmallNetwork


class ZeroGradient(ModifiedNetwork):
    """Its backward pass returns zeros."""

    def change_input(self, x: Tensor) -> Tensor:
        return with_gradient(x, lambda gradient: 0 * gradient)


class NegatedGradient(ModifiedNetwork):
    """Its backward pass returns the negated gradient."""

    def change_input(self, x: Tensor) -> Tensor:
        return with_gradient(x, lambda gradient: -gradient)


class NoisyGradient(ModifiedNetwork):
    """Its backward pass adds noise with the standard deviation of the gradient."""

    def change_input(self, x: Tensor) -> Tensor:
        return with_gradient(x, lambda gradient: gradient + gradient.std() * torch.randn_like(gradient))


class TinyGradient(ModifiedNetwork):
    """Its backward pass multiplies the gradient by 1e-8."""

    def change_input(self, x: Tensor) -> Tensor:
        return with_gradient(x, lambda gradient: 1e-8 * gradient)


class ConfinedGradient(ModifiedNetwork):
    """Its gradient is set to zero outside one pixel of twenty."""

    def change_input(self, x: Tensor) -> Tensor:
        pixels = x[0].numel()
        places = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
        kept = (places < max(1, pixels // 20)).view_as(x[0]).to(x)
        return with_gradient(x, lambda gradient: kept * gradient)


class RolledGradient(ModifiedNetwork):
    """Its gradient is moved by half of the height and width."""

    def change_input(self, x: Tensor) -> Tensor:
        shifts = (x.shape[2] // 2, x.shape[3] // 2)
        return with_gradient(x, lambda gradient: gradient.roll(shifts, (2, 3)))


class ClippedGradient(ModifiedNetwork):
    """The largest half of its gradient is set to zero."""

    def change_input(self, x: Tensor) -> Tensor:
        def clipped(gradient: Tensor) -> Tensor:
            size = gradient.flatten(1).abs()
            return torch.where(size < size.median(1, keepdim=True).values, gradient.flatten(1), 0).view_as(
                gradient
            )

        return with_gradient(x, clipped)


class WrongFromThirdCall(ModifiedNetwork):
    """The gradient of the next image from the third call near an image on, until another image is shown."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.calls = 0
        self.image = torch.zeros(())

    def change_input(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return x
        image = x[0].detach().clone()
        near = self.image.shape == image.shape and (image - self.image).abs().max() < 0.5
        self.calls, self.image = self.calls + 1 if near else 1, image
        return x if self.calls < 3 else with_gradient(x, lambda gradient: gradient.roll(1, 0))


class BlurredGradient(ModifiedNetwork):
    """Its gradient is that at a blurred image (straight-through)."""

    def forward(self, x: Tensor) -> Tensor:
        blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return with_value(self.network(blurred), self.network(x))


class OtherNetworksGradient(ModifiedNetwork):
    """Its gradient is that of an untrained network."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.other = SmallNetwork(normalise=False, width=4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return with_value(self.other(x), self.network(x))


class LargeBatchGradient(ModifiedNetwork):
    """In batches of more than 32 images its gradient belongs to the next image."""

    def change_input(self, x: Tensor) -> Tensor:
        return with_gradient(x, lambda gradient: gradient.roll(1, 0)) if len(x) > 32 else x


class GradientOnGrid(ModifiedNetwork):
    """Its gradient is right only at images on the 8-bit grid, elsewhere it is moved by three pixels."""

    levels, tolerance = 255, 1e-5

    def change_input(self, x: Tensor) -> Tensor:
        distance = ((self.levels * x).round() - self.levels * x).abs() / self.levels
        right = (distance.flatten(1).amax(1) < self.tolerance)[:, None, None, None]
        return with_gradient(x, lambda gradient: torch.where(right, gradient, gradient.roll(3, 3)))


class GradientNearClean(GradientOnGrid):
    """Its gradient is right only within 0.02 of images with the 17 levels of scikit-learn's digits."""

    levels, tolerance = 16, 0.02


class HalfWithoutGradient(ModifiedNetwork):
    """Its gradient is zero for images whose sum has an even first decimal."""

    def change_input(self, x: Tensor) -> Tensor:
        even = ((10 * x.detach().flatten(1).sum(1)).floor() % 2 == 0)[:, None, None, None]
        return with_gradient(x, lambda gradient: torch.where(even, 0, gradient))


class SignErrors(ModifiedNetwork):
    """The sign of a third of the pixels' gradient is wrong."""

    def change_input(self, x: Tensor) -> Tensor:
        places = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0))
        sign = torch.where(places < 1 / 3, -1.0, 1.0).to(x)
        return with_gradient(x, lambda gradient: sign * gradient)


def with_value(surrogate: Tensor, value: Tensor) -> Tensor:
    """``value``, with the gradient of ``surrogate``."""
    return surrogate + (value - surrogate).detach()


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def with_gradient(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``x``, with ``change`` applied to its gradient in the backward pass."""
    result: Tensor = _Identity.apply(x, change)
    return result
