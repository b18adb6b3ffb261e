"""Decide which examples are robust. No other module decides this.

The original model - float32, eager, eval mode - is run on exactly the image that is stored as evidence; ball,
box and finiteness are checked as well. Neither an attack's own claim of success nor the attack copy is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core import norms
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Bools, Verdicts
from robust_eval.models import out_of_memory

# The logits of one float32 network differ between devices by about 1e-5 of their standard deviation.
ROUNDING = 1e-4
"""Margins up to this size, in units of the logits' standard deviation, are decided by rounding alone."""


def classify(logits_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions (N,) int64, and whether all logits of an image are finite (N,) bool."""
    return logits_NK.argmax(1), logits_NK.isfinite().all(1)


def is_correct(pred_N: Tensor, finite_N: Tensor, y_N: Tensor) -> Tensor:
    """Whether the prediction counts as correct (N,) bool: logits that are not finite never do."""
    return (pred_N == y_N) & finite_N


def within_rounding(margin_N: Tensor, logit_std: float) -> Bools:
    """(N,) whether a margin is too small to decide between devices."""
    near: Bools = (margin_N.abs() <= ROUNDING * logit_std).cpu().numpy()
    return near


def judge_clean(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, indices: Sequence[int]) -> Verdicts:
    """Verdicts on the clean images: robust means a correct prediction with finite logits."""
    pred, finite = classify(out_of_memory.logits(model, x_NCHW))
    all_true = torch.ones_like(finite)
    return _verdicts(
        indices,
        labels=y_N,
        adv_pred=pred,
        distance=torch.zeros(len(y_N), dtype=torch.float64),
        in_ball=all_true,
        in_box=norms.in_box(x_NCHW),
        finite=finite,
        robust=is_correct(pred, finite, y_N),
    )


def judge(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    adv_NCHW: Tensor,
    indices: Sequence[int],
    threat: ThreatModel,
) -> Verdicts:
    """Verdicts on the images that an attack returned, float32 (N, C, H, W).

    The examples are those that :func:`judge_clean` found correct; a clean mistake is not robust and is never
    attacked. An image outside ball or box is invalid: the attack did not succeed, whatever the prediction.
    Logits that are not finite are never robust, because the argmax of NaN is a valid index.
    """
    distance = norms.distance(adv_NCHW, x_NCHW, threat.norm)
    in_ball, in_box = norms.in_ball(distance, threat), norms.in_box(adv_NCHW)
    adv_pred, finite = classify(out_of_memory.logits(model, adv_NCHW))
    return _verdicts(
        indices,
        labels=y_N,
        adv_pred=adv_pred,
        distance=distance,
        in_ball=in_ball,
        in_box=in_box,
        # Of an image that is not finite the logits are not either, which says nothing about the model.
        finite=finite | ~adv_NCHW.isfinite().flatten(1).all(1),
        robust=is_correct(adv_pred, finite, y_N) | ~(in_ball & in_box),
    )


def _verdicts(indices: Sequence[int], **fields: Tensor) -> Verdicts:
    arrays = {name: value.cpu().numpy() for name, value in fields.items()}
    return Verdicts(indices=np.asarray(indices, dtype=np.int64), **arrays)
