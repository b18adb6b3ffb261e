"""BatchNorm in eval mode is a linear map of each channel: fold it into the convolution before it."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from robust_eval.models.normalisation import Normalised

# In units of the logits' own spread, and of the largest gradient: float32 rounding through tens of
# layers stays a hundred times below.
TOLERANCE = 1e-4


def fold_batchnorm(model: nn.Module, x_NCHW: Tensor) -> tuple[nn.Module, str]:
    """(model, note): with BatchNorm folded where the graph allows it, and the same function within TOLERANCE.

    ``model`` in eval mode maps [0, 1] pixels to logits and is left as it is; ``x_NCHW`` are a few images
    on its device, on which logits and input gradients are compared with the original's.
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
        # Tracing runs the model's own Python code on stand-ins for tensors: anything can come out of it.
        return model, f"BatchNorm not folded: the graph does not allow it ({type(error).__name__})"
    if not difference <= TOLERANCE:
        return model, f"BatchNorm not folded: logits or gradients would change by {difference:.1e}"
    left = _batch_norms(result)
    return result, f"{layers - left} of {layers} BatchNorm layers folded, largest difference {difference:.0e}"


def _batch_norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _difference(original: nn.Module, other: nn.Module, x_NCHW: Tensor) -> float:
    """Largest relative difference of logits and of the gradients of their sums of squares; may be nan."""
    (logits, slope), (logits_2, slope_2) = _look(original, x_NCHW), _look(other, x_NCHW)
    pairs = [(logits, logits_2), (slope, slope_2)]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for b, a in pairs)


def _look(model: nn.Module, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x_NCHW.detach().clone().requires_grad_()
        logits = model(x)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]
