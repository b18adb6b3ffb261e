"""Fold BatchNorm layers into the convolutions before them (in eval mode both are affine)."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from robust_eval.models.normalisation import Normalised

# Relative to the largest logit and the largest gradient; float32 rounding through tens of layers is about
# a hundred times smaller.
TOLERANCE = 1e-4


def fold_batchnorm(model: nn.Module, x_NCHW: Tensor) -> tuple[nn.Module, str]:
    """(model, note): a copy with BatchNorm folded, or the original if that is not possible.

    ``model``, in eval mode, maps [0, 1] pixels to logits and is not modified. Logits and input gradients on
    a few images ``x_NCHW`` must agree with the original up to TOLERANCE.
    """
    layers = _batch_norms(model)
    if not layers:
        return model, ""
    result = copy.deepcopy(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(result, Normalised):
                result.network = fuse(result.network)
            else:
                result = fuse(result)
        result = result.eval().requires_grad_(False)
        difference = _difference(model, result, x_NCHW)
    except Exception as error:
        # Tracing runs the code of the model with proxies for tensors, which may raise any exception.
        return model, f"BatchNorm not folded: the graph does not allow it ({type(error).__name__})"
    if not difference <= TOLERANCE:
        return model, f"BatchNorm not folded: logits or gradients would change by {difference:.1e}"
    left = _batch_norms(result)
    return result, f"{layers - left} of {layers} BatchNorm layers folded, largest difference {difference:.0e}"


def _batch_norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _difference(original: nn.Module, other: nn.Module, x_NCHW: Tensor) -> float:
    """Largest relative difference of logits and of the gradients of their sums of squares; may be NaN."""
    pairs = zip(_logits_and_gradient(original, x_NCHW), _logits_and_gradient(other, x_NCHW), strict=True)
    return max(float((b - a).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in pairs)


def _logits_and_gradient(model: nn.Module, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x_NCHW.detach().clone().requires_grad_()
        logits = model(x.clone())
        return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]
