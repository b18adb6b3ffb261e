"""Activation functions by name: the ``activation`` argument of architectures.

Most have no tensors, so a state dict does not tell them apart. The slopes and betas are those of public code:
0.01 is the default of torch, 0.1 that of Pang et al. 2021 (Bag of Tricks for Adversarial Training), 0.2 usual
in generative networks, CELU with 1.2 and Softplus with 10 occur in work on smooth adversarial training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import unknown

Function = Callable[[Tensor], Tensor]

ACTIVATIONS: Mapping[str, Function] = {
    "relu": F.relu,
    "leaky-relu-0.01": partial(F.leaky_relu, negative_slope=0.01),
    "leaky-relu-0.1": partial(F.leaky_relu, negative_slope=0.1),
    "leaky-relu-0.2": partial(F.leaky_relu, negative_slope=0.2),
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus-10": partial(F.softplus, beta=10.0),
    "elu": F.elu,
    "celu-1.2": partial(F.celu, alpha=1.2),
    "selu": F.selu,
    "tanh": F.tanh,
}
RELU, SILU = "relu", "silu"


def variants(default: str) -> tuple[Mapping[str, str], ...]:
    """For :attr:`~robust_eval.models.architectures.Inferred.variants`: all activations but the default."""
    return tuple({"activation": name} for name in ACTIVATIONS if name != default)


class PSSiLU(nn.Module):
    """Parametric shifted SiLU (Dai et al. 2022), whose two numbers are learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.beta = nn.Parameter(torch.full((1,), 1e-8))

    def forward(self, x: Tensor) -> Tensor:
        shift = self.beta.abs()
        return x * (torch.sigmoid(self.alpha.abs() * x) - shift) / (1 - shift)


LEARNT: Mapping[str, type[nn.Module]] = {"pssilu": PSSiLU}
"""Activations with tensors, which are no variants of others."""
VARIANTS, SILU_VARIANTS = variants(RELU), variants(SILU)


def activation_function(name: str) -> Function:
    """The function of a name; a new module if it has tensors.

    Raises:
        UserError: for an unknown name.
    """
    if name in LEARNT:
        return LEARNT[name]()
    if name not in ACTIVATIONS:
        raise unknown("activation", str(name), {**ACTIVATIONS, **LEARNT})
    return ACTIVATIONS[name]


class _Activation(nn.Module):
    """An activation function as a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.function = name, activation_function(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


def activation_layer(name: str) -> nn.Module:
    """A layer for ``nn.Sequential``; :class:`torch.nn.ReLU` for the default."""
    return nn.ReLU() if name == RELU else _Activation(name)
