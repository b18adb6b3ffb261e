"""Compare what a model answers inside an attack with what it answers to the same images afterwards.

A model may recognise an attack from the call stack, or change its logits or gradients after some calls. It
may also return right gradients for some losses only: those that the attack used are compared with finite
differences of the outputs that the judged model gives for the same points. Answers with gradients are also
compared with those without, at images that are as far from the clean ones as attacks move them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from robust_eval.core.logits import median_difference
from robust_eval.core.types import CallDifference
from robust_eval.evaluation.checks.attack_points import Model, Slopes
from robust_eval.evaluation.checks.finite_differences import agreements
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration.kept_calls import KeptCall
from robust_eval.models.gradients import gradient_or_zero

_FEW = 8
"""Images whose gradients are compared with finite differences."""


def compare(call: KeptCall, model: Model, *, slopes: bool = False) -> CallDifference:
    """The difference between a call inside an attack and the answers of ``model``.

    ``slopes``: also compare the call's gradients with finite differences. Nothing is compared if memory is
    short.
    """
    try:
        logits, gradient = _again(call, model)
        difference = max(median_difference(call.logits_NK, logits), _without_gradients(call, model, logits))
        along = _along_directions(call, model) if slopes else 1.0
    except RuntimeError as error:
        if not out_of_memory.is_out_of_memory(error):
            raise
        return CallDifference()
    cosine = 1.0
    if call.gradient_NCHW is not None and gradient is not None:
        before, after = (one.double().flatten() for one in (call.gradient_NCHW, gradient))
        if before.isfinite().all() and after.isfinite().all() and (before.any() or after.any()):
            cosine = float(torch.cosine_similarity(before, after, 0, eps=1e-300))
    return CallDifference(difference, cosine, along)


def largest(found: Iterable[CallDifference]) -> CallDifference:
    """The largest difference of the logits and the lowest cosines; those of equal calls if there are none."""
    each = list(found)
    return CallDifference(
        max((one.logits for one in each), default=0.0),
        min((one.cosine for one in each), default=1.0),
        min((one.slopes for one in each), default=1.0),
    )


def _again(call: KeptCall, model: Model) -> tuple[Tensor, Tensor | None]:
    """Logits, and the gradient if that of the call was computed."""
    if call.weights_NK is None:
        with torch.no_grad():
            return model(call.x_NCHW), None
    leaf = call.x_NCHW.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
    return logits.detach(), gradient_or_zero(leaf, logits, call.weights_NK)


def _without_gradients(call: KeptCall, model: Model, logits: Tensor) -> float:
    """The difference between the logits of a call with gradients, and of one without, as the judge asks.

    Of a quarter of the images: a model may answer otherwise for some of them only.
    """
    if call.weights_NK is None:
        return 0.0
    with torch.no_grad():
        return median_difference(model(call.x_NCHW), logits, share=0.25)


def _along_directions(call: KeptCall, model: Model) -> float:
    """The lowest cosine between the call's gradients and finite differences; 1 if it has no gradients."""
    weights, gradient = call.weights_NK, call.gradient_NCHW
    if weights is None or gradient is None:
        return 1.0
    largest = weights.abs().amax(1)
    usable = largest.isfinite() & (largest > 0) & gradient.flatten(1).isfinite().all(1)
    chosen = usable.nonzero().flatten()[:_FEW]
    if not len(chosen):
        return 1.0
    # Losses weigh the logits of an image between 1e-30 and 1: scaled, so that rounding errors are known.
    scale = largest[chosen]
    at = Slopes(
        call.x_NCHW[chosen],
        weights[chosen] / scale[:, None],
        # Logits may be float64 although the images are float32.
        gradient[chosen] / scale.view(-1, *[1] * (gradient.dim() - 1)).to(gradient),
    )
    ((flat, rest),) = agreements(model, at, [at.gradient_NCHW], pairs=1, seed=0)
    return min(flat.cosine, rest.cosine)
