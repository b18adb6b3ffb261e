"""Models with a planted defect in the backward pass; the forward pass is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robust_eval.verification.selftest.base_networks import ModifiedNetwork


class ZeroGradient(ModifiedNetwork):
    """Its backward pass returns zeros."""

    def change_input(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: 0 * gradient)


class NegatedGradient(ModifiedNetwork):
    """Its backward pass returns the negated gradient."""

    def change_input(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: -gradient)


class NoisyGradient(ModifiedNetwork):
    """Its backward pass adds noise with the standard deviation of the gradient."""

    def change_input(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: gradient + gradient.std() * torch.randn_like(gradient))


class TinyGradient(ModifiedNetwork):
    """Its backward pass multiplies the gradient by 1e-8."""

    def change_input(self, x: Tensor) -> Tensor:
        return _with_gradient(x, lambda gradient: 1e-8 * gradient)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def _with_gradient(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``x``, with ``change`` applied to its gradient in the backward pass."""
    result: Tensor = _Identity.apply(x, change)
    return result
