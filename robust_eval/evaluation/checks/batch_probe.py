"""Compare the logits of images in batches of the sizes that a run uses with those of single images.

A model may use statistics of the batch from some size on, or only with certain neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust_eval.attacks import _spsa
from robust_eval.core.logits import largest_difference
from robust_eval.core.request import Request
from robust_eval.evaluation.checks.attack_points import Model, repeated
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration.tuning import default_tuning

_ODD = 7


def sizes(request: Request, device: torch.device, pixels: int) -> list[int]:
    """Batch sizes of a run: of units, of the rest, of smaller stages, of slices and of SPSA's queries."""
    unit = min(request.batch_size, request.data.n)
    smaller = [request.data.n % unit, (unit // 2) | 1, _ODD]
    rows = default_tuning(device, pixels).rows
    found = [unit, *(size for size in smaller if 1 < size < unit), *_queries(request, device, pixels)]
    if rows is not None:
        # The attack copy passes slices to the network; a measured slice has up to four times as many images.
        found = [min(size, 4 * rows) if size > unit else size for size in found]
        found.append(min(rows, unit))
    return list(dict.fromkeys(found))


def _queries(request: Request, device: torch.device, pixels: int) -> list[int]:
    """The images of the largest call of SPSA, if the suite contains it."""
    rows, unit = _spsa.rows_per_call(device, pixels), min(request.batch_size, request.data.n)
    samples = [
        int(attack.params["samples"]) // 2
        for column in request.suite.columns
        for attack in column.attacks
        if attack.family == "spsa"
    ]
    return [
        min(unit, max(1, rows // (2 * pairs))) * 2 * max(1, min(pairs, rows // 2))
        for pairs in samples
        if pairs
    ]


def largest_batch_difference(
    model: Model, single_NK: Tensor, pool_NCHW: Tensor, batch_sizes: list[int]
) -> tuple[float, int]:
    """(largest difference of logits, size of the batch): ``single_NK`` are those of the pool's first images.

    Of the first size there is also a batch with other neighbours in the reverse order.
    """
    worst = (0.0, 1)
    for size in batch_sizes:
        count = min(len(single_NK), size)
        batches = [repeated(pool_NCHW, size)]
        if size == batch_sizes[0]:
            neighbours = repeated(1 - pool_NCHW.flip(0), size - count)
            batches.append(torch.cat([pool_NCHW[:count], neighbours]).flip(0))
        for number, batch in enumerate(batches):
            logits = out_of_memory.logits(model, batch)
            logits = logits.flip(0)[:count] if number else logits[:count]
            worst = max(worst, (largest_difference(logits, single_NK[:count]), size))
    return worst
