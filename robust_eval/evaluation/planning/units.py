"""From a request to work units: pure, so that it can be printed, resumed and tested without running."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict

from robust_eval import attacks
from robust_eval.core import seeds
from robust_eval.core.request import CLEAN, Request, digest
from robust_eval.core.types import AttackSpec, Column, WorkUnit

# Units that a wave of few survivors is cut into, where that leaves them large enough (Request.split).
WAVE, SPLIT = 8, 4
# Attacks of more passes per image than this (SPSA: 26,000) are always cut as finely. They take seconds an
# image for a WRN-34-10 on a large GPU: everybody would wait half an hour for the last full batch.
LONG = 10_000


def unit(
    request: Request, column: str, attack: AttackSpec | None, stage: int, indices: Sequence[int]
) -> WorkUnit:
    """One attack (None: clean predictions) on the examples ``indices`` of the slice."""
    precision = request.precision if attack is None else attacks.precision(attack, request.precision)
    identity = {
        "checkpoint": request.checkpoint.identity(),
        "data": request.data.fingerprint,
        "attack": None if attack is None else asdict(attack),
        "library": None if attack is None else request.library(attack.family),
        "threat": str(request.threat),
        "indices": list(indices),
        "precision": precision,
        "seed": request.seed,
    }
    key = digest(identity)[:32]
    return WorkUnit(key, column, attack, stage, tuple(indices), seeds.derive(request.seed, key), precision)


def _cut(indices: Sequence[int], size: int, split: int, most: int) -> list[Sequence[int]]:
    """Batches of ``size``; with ``split`` above 1 equal ones, and up to ``most`` of size / split or more."""
    n = len(indices)
    if split == 1:
        return [indices[start : start + size] for start in range(0, n, size)]
    units = max(-(-n // size), min(most, n // max(1, size // split)), min(n, 1))
    return [indices[n * i // units : n * (i + 1) // units] for i in range(units)]


def block(request: Request, number: int) -> range:
    """The examples of one of the request's blocks, counted from 0."""
    n, shards = request.data.n, request.shards
    return range(n * number // shards, n * (number + 1) // shards)


def pack(request: Request, indices: Sequence[int], passes: int = 0) -> list[Sequence[int]]:
    """A wave's examples, in rising order, cut into units; ``passes``: what the attack costs per image.

    The cut follows from the request and the survivors alone. Were it to follow from the number of
    workers, another number would give other units, other seeds, and other verdicts.
    """
    most = len(indices) if passes > LONG else max(1, WAVE // request.shards)
    units: list[Sequence[int]] = []
    for number in range(request.shards):
        part = block(request, number)
        inside = indices[bisect_left(indices, part.start) : bisect_left(indices, part.stop)]
        units += _cut(inside, request.batch_size, request.split, most)
    return units


def clean_units(request: Request, only: int | None = None) -> list[WorkUnit]:
    """Clean predictions for every example, or for one block's; all other columns build on them."""
    examples = range(request.data.n) if only is None else block(request, only)
    return [unit(request, CLEAN, None, 0, batch) for batch in pack(request, examples)]


def stage_units(request: Request, column: Column, stage: int, survivors: Sequence[int]) -> list[WorkUnit]:
    """One attack of a column's cascade on the survivors so far, re-packed into full batches.

    The key knows neither column nor stage: an attack that stands in two columns on the same
    examples is one unit, run once.
    """
    attack = column.attacks[stage]
    cost = attacks.cost(attack, request.checkpoint.classes)
    cut = pack(request, survivors, cost.forwards + cost.backwards)
    return [unit(request, column.id, attack, stage, batch) for batch in cut]


def auto_batch_size(shape_CHW: Sequence[int], device_type: str) -> int:
    """Large enough to keep the device busy, small enough that an interruption costs little."""
    pixels = 1
    for side in shape_CHW:
        pixels *= side
    if device_type == "cpu":
        # Slices of a unit go through the network at once (models/tuning.py): larger units gain nothing.
        return 500 if pixels <= 256 else 100
    return 1000 if pixels <= 1024 else 500
