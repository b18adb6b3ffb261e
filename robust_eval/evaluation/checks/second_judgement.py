"""Judge the images of a run again, by a model that has been loaded anew and has seen no clean image.

A model that remembers images, counts its calls, depends on the other images of a batch, or differs from its
file gives other verdicts then. Images of broken and of robust examples are mixed, shuffled, and judged in
batches of two sizes; only afterwards the model sees clean images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_eval.core import seeds
from robust_eval.core.errors import UserError
from robust_eval.core.logits import logit_std, margin, median_difference
from robust_eval.core.types import Bools, CallDifference, Ints, UnitResult
from robust_eval.evaluation.checks.repeated_calls import largest
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.judge import classify, is_correct, within_rounding
from robust_eval.results import SecondJudgementRecord

MAX_VALUES = 2**26
"""Limit of the number of pixel values that are judged again (256 MiB)."""


@dataclass(frozen=True)
class JudgedImages:
    """Images that attacks returned, with their verdicts."""

    images: NDArray[np.float32]
    """(M, C, H, W)"""
    indices: Ints
    """(M,) examples they belong to."""
    broken: Bools
    """(M,) the run's verdicts."""
    difference: CallDifference = field(default_factory=CallDifference)
    """The largest between the model inside attacks and outside."""


def collect(results: Iterable[UnitResult], units: int, seed: int) -> JudgedImages:
    """All images of the units, or an equal share of each of them if there are more than MAX_VALUES."""
    images, indices, broken, differences = [], [], [], []
    for number, result in enumerate(results):
        verdicts = result.verdicts
        differences.append(result.difference)
        stored = np.concatenate([verdicts.indices[~verdicts.robust], result.survivors])
        if not len(stored):
            continue
        parts = [part for part in (result.evidence, result.survivor_images) if len(part)]
        pixels = np.concatenate(parts)
        count = max(1, MAX_VALUES // units // max(1, pixels[0].size))
        order = np.random.default_rng([seed, number]).permutation(len(stored))[:count]
        images.append(pixels[order])
        indices.append(stored[order])
        broken.append(order < len(result.evidence))
    difference = largest(differences)
    if not images:
        none = np.empty(0, dtype=np.int64)
        return JudgedImages(np.empty(0, dtype=np.float32), none, none.astype(np.bool_), difference)
    return JudgedImages(np.concatenate(images), np.concatenate(indices), np.concatenate(broken), difference)


def judge_again(job: Job, found: JudgedImages, clean_NK: Tensor) -> SecondJudgementRecord | None:
    """Compare the verdicts of the run with those of a new model; None if there is no new model.

    ``clean_NK``: logits of the first images before the attacks.
    """
    if job.fresh_logits is None:
        return None
    m, n = len(found.indices), len(clean_NK)
    clean = job.x_NCHW[:n].cpu()
    x = torch.cat([torch.from_numpy(found.images), clean]) if m else clean
    sizes = batch_sizes(job.request.batch_size, m)
    orders = [
        _batches(m, size, seeds.derive(job.request.seed, "second judgement", str(size))) for size in sizes
    ]
    batches = [batch for order in orders for batch in order]
    record = SecondJudgementRecord(images=m, survivors=int((~found.broken).sum()), batch_sizes=sizes)
    try:
        logits = job.fresh_logits(x, [*batches, np.arange(m, m + n)]).cpu()
    except UserError as error:
        return record.model_copy(update={"problem": str(error)})
    again, clean_again = logits[: len(sizes) * m], logits[len(sizes) * m :]
    if clean_again.shape != clean_NK.shape:
        problem = f"logits of shape {tuple(clean_again.shape)} instead of {tuple(clean_NK.shape)}"
        return record.model_copy(update={"problem": problem})
    differ = np.zeros(m, dtype=np.bool_)
    if m:
        positions = np.concatenate(batches)
        labels = job.y_N.cpu()[torch.from_numpy(found.indices[positions])]
        differ[positions[_differing(again, labels, found.broken[positions])]] = True
    difference = median_difference(clean_again, clean_NK.cpu())
    return record.model_copy(
        update={
            "broken_differ": int((differ & found.broken).sum()),
            "survivors_differ": int((differ & ~found.broken).sum()),
            "clean_logits": min(difference, 1e9),
        }
    )


def joined(found: Sequence[SecondJudgementRecord]) -> SecondJudgementRecord | None:
    """The records of several shards as one; None if there are none."""
    if not found:
        return None
    differences = [one.clean_logits for one in found if one.clean_logits is not None]
    return SecondJudgementRecord(
        images=sum(one.images for one in found),
        survivors=sum(one.survivors for one in found),
        broken_differ=sum(one.broken_differ for one in found),
        survivors_differ=sum(one.survivors_differ for one in found),
        batch_sizes=max(one.batch_sizes for one in found),
        clean_logits=max(differences, default=None),
        problem=next((one.problem for one in found if one.problem), ""),
    )


def batch_sizes(batch_size: int, images: int) -> tuple[int, ...]:
    """Two batch sizes: that of the run's units, or of all images if they are fewer, and a smaller odd one."""
    largest = min(batch_size, images)
    return () if images == 0 else (largest, largest // 3 // 2 * 2 + 1)


def _batches(n: int, size: int, seed: int) -> list[Ints]:
    order = np.random.default_rng(seed).permutation(n)
    return [order[start : start + size] for start in range(0, n, size)]


def _differing(logits_NK: Tensor, y_N: Tensor, broken: Bools) -> Bools:
    """(N,) whether the verdicts differ by more than rounding."""
    pred, finite = classify(logits_NK)
    near = within_rounding(margin(logits_NK, y_N), logit_std(logits_NK))
    now_broken = ~is_correct(pred, finite, y_N).numpy()
    differing: Bools = (now_broken != broken) & ~near
    return differing
