"""Compare what a model answers inside an attack with what it answers to the same images afterwards.

A model may recognise an attack from the call stack, or change its logits or gradients after some calls.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from robust_eval.core.logits import median_difference
from robust_eval.core.types import CallDifference
from robust_eval.evaluation.checks.attack_points import Model
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration.first_call import FirstCall
from robust_eval.models.gradients import gradient_or_zero


def compare(first: FirstCall, model: Model) -> CallDifference:
    """The difference between the first call of an attack and the answers of ``model``.

    Nothing is compared if memory is short.
    """
    try:
        logits, gradient = _again(first, model)
    except RuntimeError as error:
        if not out_of_memory.is_out_of_memory(error):
            raise
        return CallDifference()
    cosine = 1.0
    if first.gradient_NCHW is not None and gradient is not None:
        before, after = (one.double().flatten() for one in (first.gradient_NCHW, gradient))
        if before.isfinite().all() and after.isfinite().all() and (before.any() or after.any()):
            cosine = float(torch.cosine_similarity(before, after, 0, eps=1e-300))
    return CallDifference(median_difference(first.logits_NK, logits), cosine)


def largest(found: Iterable[CallDifference]) -> CallDifference:
    """The largest difference of the logits and the lowest cosine; those of equal calls if there are none."""
    each = list(found)
    return CallDifference(
        max((one.logits for one in each), default=0.0), min((one.cosine for one in each), default=1.0)
    )


def _again(first: FirstCall, model: Model) -> tuple[Tensor, Tensor | None]:
    """Logits, and the gradient if that of the call was computed."""
    if first.weights_NK is None:
        with torch.no_grad():
            return model(first.x_NCHW), None
    leaf = first.x_NCHW.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
    return logits.detach(), gradient_or_zero(leaf, logits, first.weights_NK)
