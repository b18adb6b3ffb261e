"""What is to be done with what: a request, its model and its images, on one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from robust_eval.core.image_sketch import Overlap
from robust_eval.core.request import Request
from robust_eval.core.types import FLOAT32
from robust_eval.evaluation import attack_copy
from robust_eval.evaluation.planning.cost import Estimate, estimates, measure
from robust_eval.evaluation.worker import Worker
from robust_eval.models.acceleration import compilation

FreshLogits = Callable[[int], Tensor]
"""Logits of the first n images from the same file in a fresh process; raises UserError where it fails."""


@dataclass(frozen=True)
class Job:
    """A request with the model and data it speaks of, on one device."""

    request: Request
    model: nn.Module
    """[0, 1] pixels to logits."""
    x_NCHW: Tensor
    y_N: Tensor
    fresh: FreshLogits | None = None
    """How to ask a fresh process about the same file; None for a model in memory."""
    compile: compilation.Mode = "auto"
    notes: tuple[str, ...] = ()
    """What was decided about the search before there was a model to try."""
    overlap: Overlap | None = None
    """With the images that the checkpoint says it was trained on."""

    def worker(self, search: attack_copy.AttackCopyConfig | None = None) -> Worker:
        classes = self.request.checkpoint.classes
        return Worker(self.model, self.x_NCHW, self.y_N, self.request.threat, classes, search)

    def search(
        self, folder: Path | None = None, tell: attack_copy.Log = attack_copy.no_log
    ) -> attack_copy.AttackCopyConfig:
        """How the attacks will call their copy; measured where the planned work is long, after a word."""
        return attack_copy.choose(self.request, self.model, self.x_NCHW, self.compile, folder, tell)


def estimate(job: Job) -> list[Estimate]:
    """What the job will cost at most, from a few timed batches."""
    request = job.request
    batch = job.x_NCHW[: min(request.batch_size, 64)]
    precisions = {request.precision, FLOAT32}
    speeds = {precision: measure(job.model, batch, precision=precision) for precision in precisions}
    n, classes = request.data.n, request.checkpoint.classes
    return estimates(request.suite, n, request.batch_size, classes, speeds, request.precision)
