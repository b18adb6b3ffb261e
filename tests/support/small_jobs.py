"""Small training jobs: a few dozen digits, a tiny network, a few updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from defenses.recipes.choices import Choices
from defenses.training.display import SilentTrainingDisplay
from defenses.training.job import TrainingJob, prepare
from defenses.training.options import TrainOptions
from defenses.training.runtime import start_runtime
from defenses.training.signals import InterruptHandler
from defenses.training.state import TrainingProgress
from defenses.training.trainer import TrainingOutcome, train
from robust_eval.models.loading import checkpoint
from robust_eval.models.loading.network_sources import is_external

MakeJob = Callable[..., TrainingJob]
SMALL_NETWORK = ("architecture_arguments.width=4", "architecture_arguments.hidden=8")
SMALL = (
    *SMALL_NETWORK,
    "training.batch_size=32",
    "selection.steps=2",
    "selection.every=1",
)


class StopAfter(SilentTrainingDisplay):
    """Interrupts a run after ``updates`` updates, as Ctrl-C would."""

    def __init__(self, interrupt: InterruptHandler, updates: int) -> None:
        self._interrupt, self._remaining = interrupt, updates

    def update(self, progress: TrainingProgress, loss: float, accuracy: float) -> None:
        self._remaining -= 1
        self._interrupt.requested = self._remaining <= 0


def make_job(
    folder: Path, recipe: str, *sets: str, n: int = 64, held_out: int = 32, **options: Any
) -> TrainingJob:
    """``make_job(tmp_path, "at", "inner.steps=3")``: a job on the first digits."""
    attack = () if recipe == "natural" else ("inner.steps=2",)
    arch = options.pop("arch", None)
    external = arch is not None and is_external(arch)
    choices = Choices(
        data=options.pop("data", "digits"),
        norm=options.pop("norm", None),
        arch=arch,
        epochs=options.pop("epochs", 2),
        sets=(*(one for one in SMALL if not (external and one in SMALL_NETWORK)), *attack, *sets),
    )
    job = prepare(
        TrainOptions(recipe=recipe, choices=choices, **{"out": folder, "tensorboard": False, **options})
    )
    validation = job.validation.take(held_out) if job.validation is not None and held_out else None
    return replace(job, train=job.train.take(n), validation=validation)


def run(
    job: TrainingJob, interrupt: InterruptHandler | None = None, display: SilentTrainingDisplay | None = None
) -> TrainingOutcome:
    """Train silently in one process."""
    return train(
        job,
        start_runtime("cpu", job.options.precision, 1),
        display or SilentTrainingDisplay(),
        interrupt or InterruptHandler(),
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors."""
    return checkpoint.load(str(path), images=None, device="cpu").network.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are identical bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
