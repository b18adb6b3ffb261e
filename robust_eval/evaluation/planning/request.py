"""Build the request: everything that the verdicts depend on."""

from __future__ import annotations

from math import prod

from robust_eval import attacks
from robust_eval.core.errors import UserError
from robust_eval.core.request import Request
from robust_eval.core.threat import ThreatModel, refuse_unbounded
from robust_eval.core.types import CheckpointRef, Slice
from robust_eval.evaluation.planning.settings import Settings
from robust_eval.evaluation.planning.units import UnitSizes, auto_unit_sizes


def make_request(
    settings: Settings,
    checkpoint: CheckpointRef,
    data: Slice,
    threat: ThreatModel,
    shape_CHW: tuple[int, ...],
    precision: str,
    operations: int = 0,
) -> Request:
    """The request of one evaluation; ``precision`` is float32 or bfloat16.

    ``operations``: floating-point operations of a forward pass per image; 0: unknown.
    A given batch size is used as it is; an automatic one may be split for stages with few survivors.

    Raises:
        UserError: for an epsilon that allows any image, an attack that does not fit the images or the threat
            model, or more shards than examples.
    """
    refuse_unbounded(threat, prod(shape_CHW))
    for column in settings.suite.columns:
        for attack in column.attacks:
            attacks.refuse_impossible(attack, threat, (shape_CHW[1], shape_CHW[2]))
    if not 1 <= settings.shards <= data.n:
        raise UserError(f"--shards must lie between 1 and the {data.n} examples, got {settings.shards}.")
    given = settings.batch_size
    sizes = UnitSizes(given, 1) if given else auto_unit_sizes(shape_CHW, settings.device.type, operations)
    families = sorted({attack.family for column in settings.suite.columns for attack in column.attacks})
    return Request(
        checkpoint=checkpoint,
        data=data,
        threat=threat,
        suite=settings.suite,
        batch_size=sizes.batch_size,
        seed=settings.seed,
        libraries=tuple((name, attacks.library(name)) for name in families),
        precision=precision,
        split=sizes.split,
        long_split=sizes.long_split,
        shards=settings.shards,
    )
