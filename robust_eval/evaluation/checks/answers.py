"""What a model answers before and after the attacks, at the evaluated images and near them.

A model that begins to remember images, or to return other gradients, after the probes has changed at points
of the ball that it has seen in the meantime, or at all points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.logits import largest_difference, logit_std
from robust_eval.core.threat import ThreatModel
from robust_eval.evaluation.checks.attack_points import cross_entropy_weights, random_start, slopes
from robust_eval.models import out_of_memory
from robust_eval.models.isolation import Isolated

NEAR = 16
"""Images that are perturbed at random."""


@dataclass(frozen=True)
class Answers:
    """Logits at images and at random points of their balls, and the gradient of cross-entropy there."""

    logits_NK: Tensor
    near_MK: Tensor
    gradient_MCHW: Tensor | None
    """None for outputs without a gradient."""


def ask(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel) -> Answers:
    """The answers of a model in eval mode; the points are the same for every call."""
    near = random_start(x_NCHW[:NEAR], threat, seed=0)
    gradient = _gradient(model, near, y_N[:NEAR])
    return Answers(out_of_memory.logits(model, x_NCHW), out_of_memory.logits(model, near), gradient)


def _gradient(model: nn.Module, near: Tensor, y: Tensor) -> Tensor | None:
    """At fewer points if memory is short."""
    isolated = Isolated(model)
    try:
        at = out_of_memory.with_fewer(
            lambda n: slopes(isolated, near[:n], y[:n], cross_entropy_weights), len(near)
        )
    except RuntimeError as error:
        if not out_of_memory.is_out_of_memory(error):
            raise
        return None
    return None if at is None else at.gradient_NCHW


def change(before: Answers, after: Answers) -> float:
    """The largest difference of logits, in units of their standard deviation."""
    pairs = ((before.logits_NK, after.logits_NK), (before.near_MK, after.near_MK))
    return max(largest_difference(new, old) for old, new in pairs) / logit_std(before.logits_NK)


def cosine(before: Answers, after: Answers) -> float:
    """Of the gradients of all points; 1 if neither has any."""
    one, other = before.gradient_MCHW, after.gradient_MCHW
    if one is None or other is None:
        return 1.0 if one is other else 0.0
    points = min(len(one), len(other))
    old, new = (value[:points].nan_to_num(0, 0, 0).double().flatten(1) for value in (one, other))
    # Each point has the same weight.
    scale = torch.maximum(old.norm(dim=1), new.norm(dim=1)).clamp_min(torch.finfo(torch.float64).tiny)
    old, new = ((value / scale[:, None]).flatten() for value in (old, new))
    if not old.any() and not new.any():
        return 1.0
    return float(F.cosine_similarity(old, new, 0))
