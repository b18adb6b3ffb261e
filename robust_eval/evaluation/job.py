"""What is to be done with what: a request, its model and its images, on one device."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core.errors import UserError
from robust_eval.core.image_sketch import Overlap
from robust_eval.core.threat import ThreatModel, refuse_unbounded
from robust_eval.core.types import CheckpointRef, Slice, Suite
from robust_eval.evaluation import attack_copy as searching
from robust_eval.evaluation.checks import diagnosis as closer
from robust_eval.evaluation.checks import probes
from robust_eval.evaluation.checks.probes import Probe
from robust_eval.evaluation.planning.cost import Estimate, estimates, measure
from robust_eval.evaluation.planning.units import SPLIT, Request, auto_batch_size
from robust_eval.evaluation.worker import Worker, full_precision
from robust_eval.models import out_of_memory as memory
from robust_eval.models.acceleration import compilation as compiling
from robust_eval.models.acceleration.frozen_copy import FLOAT32

PROBED = 32


@dataclass(frozen=True)
class Job:
    """A request with the model and data it speaks of, on one device."""

    request: Request
    model: nn.Module
    """[0, 1] pixels to logits."""
    x_NCHW: Tensor
    y_N: Tensor
    fresh: closer.FreshLogits | None = None
    """How to ask a fresh process about the same file; None for a model in memory."""
    compile: compiling.Mode = "auto"
    notes: tuple[str, ...] = ()
    """What was decided about the search before there was a model to try."""
    overlap: Overlap | None = None
    """With the images that the checkpoint says it was trained on."""

    def worker(self, search: searching.Search | None = None) -> Worker:
        classes = self.request.checkpoint.classes
        return Worker(self.model, self.x_NCHW, self.y_N, self.request.threat, classes, search)

    def search(self, folder: Path | None = None, tell: searching.Tell = searching.nobody) -> searching.Search:
        """How the attacks will call their copy; measured where the planned work is long, after a word."""
        return searching.choose(self.request, self.model, self.x_NCHW, self.compile, folder, tell)

    def probe(self) -> Probe:
        """Look at the first images, fewer where memory is short; refuses a model that cannot answer."""
        full_precision()
        count = min(PROBED, len(self.x_NCHW))
        while True:
            try:
                return probes.probe(self.model.eval(), self.x_NCHW[:count], self.y_N[:count])
            except Exception as error:
                if count == 1 or not memory.ran_out(error):
                    shape = tuple(self.x_NCHW[:count].shape)
                    raise UserError(
                        f"The model fails on a batch of shape {shape}: {type(error).__name__}: {error}."
                    ) from error
            count //= 2
            memory.release()


def estimate(job: Job) -> list[Estimate]:
    """What the job will cost at most, from a few timed batches."""
    request = job.request
    batch = job.x_NCHW[: min(request.batch_size, 64)]
    precisions = {request.precision, FLOAT32}
    speeds = {precision: measure(job.model, batch, precision=precision) for precision in precisions}
    n, classes = request.data.n, request.checkpoint.classes
    return estimates(request.suite, n, request.batch_size, classes, speeds, request.precision)


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
    blocks: int = 1,
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
        blocks=blocks,
    )
