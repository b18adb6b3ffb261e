"""A copy of a model that computes in bfloat16, for attacks only; its input and output are float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from robust_eval.core.errors import UserError
from robust_eval.models.acceleration.deep_copy import copy_model
from robust_eval.models.normalisation import Normalised

_TEST_IMAGES = 2
"""Number of images on which the copy is tried."""


class BFloat16Error(UserError):
    """A model cannot compute in bfloat16; ``problem`` is the reason."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"This model does not run in bfloat16 ({problem}): use precision float32.")
        self.problem = problem


def unsupported_reason(device: torch.device) -> str:
    """Why bfloat16 is not faster on this device; '' if it has bfloat16 matrix units."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major >= 8 else f"a GPU of compute capability {major}.{minor} has no bfloat16 units"
    # Not available in torch before 2.11.
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return ""
    return f"this processor ({torch.backends.cpu.get_cpu_capability()}) has no bfloat16 matrix units"


class _BFloat16Network(nn.Module):
    """A bfloat16 network with float32 input and output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.network(x_NCHW.to(torch.bfloat16))
        return logits.float()


class _Float32Linear(nn.Linear):
    """The last layer in float32: margins rounded to 8 bits would hide small steps from the attack."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.float(), self.weight, self.bias)


def to_bfloat16(model: nn.Module, x_NCHW: Tensor) -> nn.Module:
    """A copy in bfloat16; normalisation and, if possible, the last linear layer stay in float32.

    ``x_NCHW``: images in [0, 1], on which forward and backward pass are tried.

    Raises:
        BFloat16Error: if the model cannot compute in bfloat16.
    """
    x, problem = x_NCHW[:_TEST_IMAGES], ""
    for float32_last in (True, False):
        converted = _converted(copy_model(model), float32_last).requires_grad_(False)
        try:
            _try(converted, x)
        except Exception as error:
            # The code of the model may raise any exception for bfloat16 tensors.
            text = str(error).strip()
            problem = text.splitlines()[0] if text else type(error).__name__
            continue
        return converted
    raise BFloat16Error(problem)


def describe(network: nn.Module) -> str:
    """A note on what :func:`to_bfloat16` did."""
    float32_last = any(isinstance(module, _Float32Linear) for module in network.modules())
    return f"searches in bfloat16{', last layer in float32' if float32_last else ''}"


def _try(network: nn.Module, x_NCHW: Tensor) -> None:
    """Run a forward and, if the model has gradients, a backward pass; exceptions are not caught."""
    with torch.enable_grad():
        leaf = x_NCHW.detach().clone().requires_grad_()
        logits = network(leaf.clone())
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf)


def _converted(model: nn.Module, float32_last: bool) -> nn.Module:
    inner = model.network if isinstance(model, Normalised) else model
    layers = [(name, layer) for name, layer in inner.named_modules() if type(layer) is nn.Linear and name]
    # Created before the conversion, which would round the weights.
    last = [(name, _Float32Linear(layer)) for name, layer in layers[-1:] if float32_last]
    inner.to(torch.bfloat16)
    for name, layer in last:
        inner.set_submodule(name, layer)
    if isinstance(model, Normalised):
        model.network = _BFloat16Network(inner)
        return model
    return _BFloat16Network(inner)
