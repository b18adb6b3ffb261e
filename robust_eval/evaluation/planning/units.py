"""Split a request into units.

Pure functions, so that a plan can be printed, resumed and tested without running anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod

from robust_eval import attacks
from robust_eval.core import seeds
from robust_eval.core.request import CLEAN, Request, digest
from robust_eval.core.types import AttackSpec, Column, WorkUnit

STAGE_UNITS = 8
"""A stage with few survivors is cut into this many units if they stay large enough (Request.split)."""
LONG = 10_000
"""Attacks with more passes per image (SPSA: 26,000) are always cut into small units (Request.long_split).

One image takes minutes on a CPU, and seconds on a large GPU: a last full batch would run alone for an hour.
"""


def make_unit(
    request: Request, column: str, attack: AttackSpec | None, stage: int, indices: Sequence[int]
) -> WorkUnit:
    """One attack (None: clean predictions) on the examples ``indices``.

    The key depends neither on the column nor on the stage: an attack that occurs in two columns on the same
    examples is one unit and runs once.
    """
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


def shard_examples(request: Request, shard: int | None = None) -> range:
    """The examples of one of the request's shards, counted from 0; None: all examples."""
    n, shards = request.data.n, request.shards
    return range(n) if shard is None else range(n * shard // shards, n * (shard + 1) // shards)


def split_into_batches(request: Request, indices: Sequence[int], passes: int = 0) -> list[Sequence[int]]:
    """Cut a stage's examples, in rising order, into units; ``passes``: cost of the attack per image.

    The cut depends on the request and the survivors only. If it depended on the number of workers, another
    number would give other units, other seeds, and other verdicts.
    """
    long = passes > LONG
    most = len(indices) if long else max(1, STAGE_UNITS // request.shards)
    split = request.long_split or request.split if long else request.split
    units: list[Sequence[int]] = []
    for shard in range(request.shards):
        examples = shard_examples(request, shard)
        inside = indices[bisect_left(indices, examples.start) : bisect_left(indices, examples.stop)]
        units += _cut(inside, request.batch_size, split, most)
    return units


def _cut(indices: Sequence[int], size: int, split: int, most: int) -> list[Sequence[int]]:
    """Batches of ``size``; with ``split`` > 1 equal ones, of size / split examples or more."""
    n = len(indices)
    if split == 1:
        return [indices[start : start + size] for start in range(0, n, size)]
    units = max(-(-n // size), min(most, n // max(1, size // split)), min(n, 1))
    return [indices[n * i // units : n * (i + 1) // units] for i in range(units)]


def clean_units(request: Request, shard: int | None = None) -> list[WorkUnit]:
    """Clean predictions for every example, or for one shard's; all other columns depend on them."""
    return [
        make_unit(request, CLEAN, None, 0, batch)
        for batch in split_into_batches(request, shard_examples(request, shard))
    ]


def stage_units(request: Request, column: Column, stage: int, survivors: Sequence[int]) -> list[WorkUnit]:
    """One attack of a column's cascade on the survivors so far, packed into full batches."""
    attack = column.attacks[stage]
    cost = attacks.cost(attack, request.checkpoint.classes)
    batches = split_into_batches(request, survivors, cost.forwards + cost.backwards)
    return [make_unit(request, column.id, attack, stage, batch) for batch in batches]


CALL = 10**9
"""Floating-point operations of a unit's forward pass on a CPU that hide the fixed cost of a call.

Calling a network and updating an attack's state cost about a millisecond; a core computes some 5e10 a second.
"""
UNIT_BYTES = 2**26
"""Of a unit's images on a CPU, in float32: attacks keep tens of copies. At least 100 images are taken."""
SMALL_CALL = 10**8
"""Operations that take about as long as the fixed cost: fewer are not worth a unit of their own."""
LONG_CALL = 4 * 10**8
"""Operations of a long attack's unit, per pass: with SPSA's 26,000 passes it takes some minutes."""
LONG_IMAGES = 25
"""Enough images for a unit of a long attack on a CPU: already a few give full batches of queries."""
MOST_SPLITS = 8


@dataclass(frozen=True)
class UnitSizes:
    """Number of examples per unit, as in :class:`~robust_eval.core.request.Request`."""

    batch_size: int
    split: int
    long_split: int | None = None


def auto_unit_sizes(shape_CHW: Sequence[int], device_type: str, operations: int = 0) -> UnitSizes:
    """Automatic sizes: units keep the device busy, and are small enough for several workers.

    They follow from the request alone, because the verdicts depend on them. ``operations``: floating-point
    operations of a forward pass per image; 0: unknown.
    """
    size = auto_batch_size(shape_CHW, device_type, operations)
    if device_type != "cpu" or operations == 0:
        return UnitSizes(size, 4)
    split = min(max(size * operations // SMALL_CALL, 1), MOST_SPLITS)
    images = min(max(LONG_CALL // operations, 1), LONG_IMAGES)
    return UnitSizes(size, split, max(size // images, split))


def auto_batch_size(shape_CHW: Sequence[int], device_type: str, operations: int = 0) -> int:
    """Automatic number of examples per unit, and of images per call of other measurements."""
    pixels = prod(shape_CHW)
    if device_type != "cpu":
        return 1000 if pixels <= 1024 else 500
    if pixels <= 256:
        return 500
    # The attack copy calls the network with slices of a unit: larger units of large networks are not faster.
    most = min(max(UNIT_BYTES // (4 * pixels), 100), 1000)
    return 100 if operations == 0 else min(max(int(round(CALL / operations, -2)), 100), most)
