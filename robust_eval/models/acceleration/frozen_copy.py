"""The copy of a model that attacks search with. The judge never sees it.

What makes the copy fast may make an attack weaker, never a model look less robust: verdicts come
from the original.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_eval.core.types import BFLOAT16, FLOAT32, PRECISIONS
from robust_eval.models.acceleration import activation_differences
from robust_eval.models.acceleration.attack_model import AttackCopy, Engine
from robust_eval.models.acceleration.batchnorm_folding import folded
from robust_eval.models.acceleration.bfloat16 import described, reduced
from robust_eval.models.acceleration.compilation import compiled
from robust_eval.models.acceleration.deep_copy import copied
from robust_eval.models.acceleration.small_steps import Nearby
from robust_eval.models.acceleration.tuning import Tuning, sizes, usual


def frozen(
    model: nn.Module,
    *,
    batch: int | None = None,
    sample: Tensor | None = None,
    precision: str = FLOAT32,
    tuning: Tuning | None = None,
) -> AttackCopy:
    """A deep copy in eval mode, its parameters without gradients, channels-last.

    ``model`` maps ``x_NCHW`` in [0, 1] to ``logits_NK`` and is left as it is. ``batch``: at most
    this many images at once. ``sample``: a few images on the model's device; with them BatchNorm is
    folded and bfloat16 is possible, both checked on them. ``tuning``: how the copy is called; without
    it, as is usual for images of the sample's size.
    """
    parts = prepared(model, sample=sample, precision=precision)
    return tuned(parts, batch=batch, sample=sample, tuning=tuning)


def prepared(model: nn.Module, *, sample: Tensor | None, precision: str) -> tuple[nn.Module, tuple[str, ...]]:
    """(network, notes): the copy alone, without a way of calling it."""
    network, notes = copied(model).eval().requires_grad_(False), []
    if sample is not None:
        network, note = folded(network, sample)
        notes += [note] if note else []
        if precision == BFLOAT16:
            network = reduced(network, sample)
            notes.append(described(network))
    return network.to(memory_format=torch.channels_last), tuple(notes)


def tuned(
    parts: tuple[nn.Module, tuple[str, ...]],
    *,
    batch: int | None = None,
    sample: Tensor | None = None,
    tuning: Tuning | None = None,
) -> AttackCopy:
    """The search copy around a :func:`prepared` network; ``sample`` as in :func:`frozen`."""
    network, notes = parts
    if tuning is None:
        tuning = Tuning() if sample is None else usual(sample.device, sample.shape[1:].numel())

    def engine(rows: int | None, quick: bool) -> Engine:
        call = compiled(network) if quick else network
        return Engine(call, rows, tuple(sizes(rows, quick)))

    nearby = None
    if tuning.near_rows and sample is not None:
        steps, note = activation_differences.near(network, sample)
        notes = (*notes, note)
        nearby = Nearby(compiled(steps), tuning.near_rows) if steps is not None else None
    return AttackCopy(
        network,
        batch,
        forward=engine(tuning.rows, tuning.compiled),
        gradient=engine(tuning.gradient_rows, tuning.gradient_compiled),
        nearby=nearby,
        notes=notes,
    )


__all__ = ["BFLOAT16", "FLOAT32", "PRECISIONS", "AttackCopy", "frozen", "prepared", "tuned"]
