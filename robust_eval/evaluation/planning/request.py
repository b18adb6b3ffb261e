"""TODO."""

from __future__ import annotations

from math import prod

import torch

from robust_eval import attacks
from robust_eval.core.errors import UserError
from robust_eval.core.request import Request
from robust_eval.core.threat import ThreatModel, refuse_unbounded
from robust_eval.core.types import FLOAT32, CheckpointRef, Slice, Suite
from robust_eval.evaluation.planning.units import SPLIT, auto_batch_size


def make_request(
    checkpoint: CheckpointRef,
    data: Slice,
    threat: ThreatModel,
    suite: Suite,
    *,
    shape_CHW: tuple[int, ...],
    device: torch.device,
    batch_size: int | None,
    seed: int,
    precision: str = FLOAT32,
    shards: int = 1,
) -> Request:
    """What is to be done. A batch size that is given is kept to; one of ours may be split for small waves.

    Raises :class:`UserError` for a budget, batch size or seed that cannot be meant.
    """
    refuse_unbounded(threat, prod(shape_CHW))
    for column in suite.columns:
        for attack in column.attacks:
            attacks.refuse_impossible(attack, threat, (shape_CHW[1], shape_CHW[2]))
    if batch_size is not None and batch_size < 1:
        raise UserError(f"The batch size must be at least 1, got {batch_size}.")
    if seed < 0:
        raise UserError(f"The seed must be 0 or more, got {seed}.")
    families = sorted({attack.family for column in suite.columns for attack in column.attacks})
    return Request(
        checkpoint=checkpoint,
        data=data,
        threat=threat,
        suite=suite,
        batch_size=batch_size or auto_batch_size(shape_CHW, device.type),
        seed=seed,
        libraries=tuple((name, attacks.library(name)) for name in families),
        precision=precision,
        split=1 if batch_size else SPLIT,
        shards=shards,
    )
