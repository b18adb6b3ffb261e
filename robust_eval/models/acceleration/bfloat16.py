"""bfloat16 inside, float32 at both ends: for searching, never for judging."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from robust_eval.core.errors import UserError
from robust_eval.models.acceleration.deep_copy import copy_model
from robust_eval.models.normalisation import Normalised

_TRIED = 2
"""Images that show whether a network answers."""


class BFloat16Error(UserError):
    """A model that cannot compute in bfloat16; ``problem`` says why."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"This model does not run in bfloat16 ({problem}): use precision float32.")
        self.problem = problem


def unsupported_reason(device: torch.device) -> str:
    """Why bfloat16 would not pay on this device, or '' where its matrix units know it."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major >= 8 else f"a GPU of compute capability {major}.{minor} has no bfloat16 units"
    # Torch before 2.11 cannot say.
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return ""
    return f"this processor ({torch.backends.cpu.get_cpu_capability()}) shows no bfloat16 matrix units"


class _Narrow(nn.Module):
    """A bfloat16 network with float32 outside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.network(x_NCHW.to(torch.bfloat16))
        return logits.float()


class _Wide(nn.Linear):
    """The last layer in float32: a margin rounded to 8 bits would hide small steps from the attack."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.float(), self.weight, self.bias)


def to_bfloat16(model: nn.Module, x_NCHW: Tensor) -> nn.Module:
    """A copy that computes in bfloat16; normalisation and the last linear layer stay in float32.

    ``x_NCHW``: a few images in [0, 1], to see that it answers. Raises :class:`UserError` where the model
    cannot compute in bfloat16.
    """
    x, problem = x_NCHW[:_TRIED], ""
    for widen in (True, False):
        narrow = _narrowed(copy_model(model), widen).requires_grad_(False)
        try:
            _try(narrow, x)
        except Exception as error:
            # The model's own code runs on numbers that it was not written for.
            text = str(error).strip()
            problem = text.splitlines()[0] if text else type(error).__name__
            continue
        return narrow
    raise BFloat16Error(problem)


def describe(network: nn.Module) -> str:
    """What :func:`to_bfloat16` did, in words."""
    wide = any(isinstance(module, _Wide) for module in network.modules())
    return f"searches in bfloat16{', last layer in float32' if wide else ''}"


def _try(narrow: nn.Module, x_NCHW: Tensor) -> None:
    """One pass forwards and, where there are gradients, one backwards; raises what they raise."""
    with torch.enable_grad():
        leaf = x_NCHW.detach().clone().requires_grad_()
        logits = narrow(leaf)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf)


def _narrowed(model: nn.Module, widen: bool) -> nn.Module:
    inner = model.network if isinstance(model, Normalised) else model
    layers = [(name, layer) for name, layer in inner.named_modules() if type(layer) is nn.Linear and name]
    # Before the others are narrowed, which would round it.
    last = [(name, _Wide(layer)) for name, layer in layers[-1:] if widen]
    inner.to(torch.bfloat16)
    for name, layer in last:
        inner.set_submodule(name, layer)
    if isinstance(model, Normalised):
        model.network = _Narrow(inner)
        return model
    return _Narrow(inner)
