"""The only place that says "robust".

The judge runs the original model - float32, eager, eval mode - on exactly the image that is
stored as evidence, and checks ball, box and finiteness itself. What an attack claims about its own
success is never used, and the accelerated copy that the attack searched with is never asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core import norms
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Verdicts
from robust_eval.models import out_of_memory


@torch.no_grad()
def predict(model: nn.Module, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions (N,) int64 and whether all logits are finite (N,) bool. Short of memory, in parts."""
    logits_NK = out_of_memory.logits(model, x_NCHW)
    return logits_NK.argmax(1), logits_NK.isfinite().all(1)


def judge_clean(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, indices: Sequence[int]) -> Verdicts:
    """Verdicts on the clean images: "robust" means predicted right with finite logits."""
    pred, finite = predict(model, x_NCHW)
    everything_fine = torch.ones_like(finite)
    return _verdicts(
        indices,
        labels=y_N,
        adv_pred=pred,
        distance=torch.zeros(len(y_N), dtype=torch.float64),
        in_ball=everything_fine,
        in_box=norms.in_box(x_NCHW),
        finite=finite,
        robust=(pred == y_N) & finite,
    )


def judge(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    adv_NCHW: Tensor,
    indices: Sequence[int],
    threat: ThreatModel,
) -> Verdicts:
    """Verdicts on what an attack returned, float32 (N, C, H, W): the images that are stored as evidence.

    The examples are ones that :func:`judge_clean` found right; a clean mistake is not robust and
    is never attacked. An image outside ball or box is invalid: no success for the attack, whatever
    the model says to it. Logits that are not finite are never robust, because the argmax of NaN is
    an index like any other.
    """
    distance = norms.distance(adv_NCHW, x_NCHW, threat.norm)
    in_ball, in_box = norms.in_ball(distance, threat), norms.in_box(adv_NCHW)
    adv_pred, finite = predict(model, adv_NCHW)
    return _verdicts(
        indices,
        labels=y_N,
        adv_pred=adv_pred,
        distance=distance,
        in_ball=in_ball,
        in_box=in_box,
        finite=finite,
        robust=((adv_pred == y_N) & finite) | ~(in_ball & in_box),
    )


def _verdicts(indices: Sequence[int], **fields: Tensor) -> Verdicts:
    arrays = {name: value.cpu().numpy() for name, value in fields.items()}
    return Verdicts(indices=np.asarray(indices, dtype=np.int64), **arrays)
