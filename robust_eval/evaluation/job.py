"""Job: a request with its model and images on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from robust_eval.core.float_images import Images
from robust_eval.core.image_sketch import Overlap
from robust_eval.core.request import Request
from robust_eval.core.types import FLOAT32, Ints
from robust_eval.evaluation.attack_copy import AttackCopyConfig
from robust_eval.evaluation.planning.cost import Estimate, estimates, measure_speed
from robust_eval.evaluation.worker import Worker
from robust_eval.models.acceleration import compilation
from robust_eval.models.isolation import Isolated
from robust_eval.results import FlagRecord

FreshLogits = Callable[[Tensor, Sequence[Ints]], Tensor]
"""Logits of batches of images, by a model that has not been called before; raises UserError if that fails.

Takes images (N, C, H, W) and the indices of each batch, in the order of the calls; returns (sum of the
batches' sizes, K).
"""


@dataclass(frozen=True)
class Job:
    """A request with its model and images on one device."""

    request: Request
    model: nn.Module
    """[0, 1] pixels to logits."""
    x_NCHW: Images
    y_N: Tensor
    fresh_logits: FreshLogits | None = None
    """By the same file in a fresh process, or by a copy of a model in memory."""
    compile: compilation.Mode = "auto"
    notes: tuple[str, ...] = ()
    """What was decided about the attack copy before the model was probed."""
    overlap: Overlap | None = None
    """Images that the checkpoint was trained on, according to the checkpoint."""
    raised: tuple[FlagRecord, ...] = ()
    """Flags for what the checkpoint does not record."""

    def __post_init__(self) -> None:
        # Whoever calls the model of a job, it receives copies of the images.
        if not isinstance(self.model, Isolated):
            object.__setattr__(self, "model", Isolated(self.model))

    def worker(self, config: AttackCopyConfig | None = None) -> Worker:
        """A worker for the units of this job; ``config``: how its attack copies are called."""
        classes = self.request.checkpoint.classes
        return Worker(self.model, self.x_NCHW, self.y_N, self.request.threat, classes, config)


def estimate(job: Job, images: int = 64, *, repeats: int = 3) -> list[Estimate]:
    """Upper bound of the job's cost, from timed passes of a batch of ``images``."""
    request = job.request
    batch = job.x_NCHW[: min(request.batch_size, images)]
    speeds = {
        precision: measure_speed(job.model, batch, repeats=repeats, precision=precision)
        for precision in {request.precision, FLOAT32}
    }
    return estimates(request, speeds)
