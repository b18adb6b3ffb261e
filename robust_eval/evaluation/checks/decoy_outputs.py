"""Find outputs that are never predicted but are the strongest ones after the label's.

Attacks that increase the strongest other logit follow such outputs in vain. They are possible only if a model
has more outputs than the labels use.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from robust_eval.core.threat import ThreatModel
from robust_eval.evaluation.checks.attack_points import Model, random_start, slopes

_CLASSES = 3
"""The most frequent ones are tried."""
_IMAGES = 8
_STEPS = 30
_STEP = 0.2
"""Of the first step; they become smaller."""
_SHARE = 0.25
"""Of the points: below it nothing is tried."""


def decoy_share(
    model: Model, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, labels: frozenset[int], outputs: int
) -> float:
    """Share of points in the ball whose strongest output but the label's can be reached from no image.

    ``labels``: of all evaluated images. ``outputs``: number of the model's outputs; the model is not called
    if every one has a label. An output can be reached if it is predicted on the way of an attack towards it
    that may return any image in [0, 1].
    """
    if outputs <= len(labels):
        return 0.0
    points = torch.cat([x_NCHW, random_start(x_NCHW, threat, seed=0)])
    with torch.no_grad():
        logits = model(points)
    if not logits.isfinite().all():
        return 0.0
    predicted = set(logits.argmax(1).tolist())
    others = logits.scatter(1, torch.cat([y_N, y_N])[:, None], float("-inf")).argmax(1).tolist()
    unused = Counter(other for other in others if other not in labels | predicted)
    if unused.total() < _SHARE * len(others):
        return 0.0
    decoys = [count for name, count in unused.most_common(_CLASSES) if not _reached(model, x_NCHW, name)]
    return sum(decoys) / len(others)


def _reached(model: Model, x_NCHW: Tensor, name: int) -> bool:
    """Whether steps along the sign of the gradient lead from one of a few images to this class."""
    point = x_NCHW[:_IMAGES]
    wanted = torch.full((len(point),), name, device=point.device)
    for step in range(_STEPS):
        at = slopes(model, point, wanted)
        if at is None:
            return True
        point = (point - _STEP * (1 - step / _STEPS) * at.gradient_NCHW.nan_to_num(0, 0, 0).sign()).clamp(
            0, 1
        )
        with torch.no_grad():
            if (model(point).argmax(1) == wanted).any():
                return True
    return False
