"""How long a training will take: measured with a few of its updates, of which nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch

from defenses.training.accuracy import BATCH, measure_accuracies
from defenses.training.batches import ImagePool
from defenses.training.context import TrainingContext, begin
from defenses.training.epoch import measurement_due
from defenses.training.job import TrainingJob
from defenses.training.runtime import Runtime

_UPDATES = 3
"""Measured, after one that is not: it may compile the network."""


@dataclass(frozen=True)
class TrainingEstimate:
    """Counts of a training, and seconds of each on this device."""

    updates: int
    """In all epochs."""
    update_seconds: float
    """With weight perturbation, if the recipe has one."""
    measurements: int
    """Epochs after which accuracies are measured."""
    measurement_seconds: float
    """At most: as if every image were classified correctly, and so attacked."""
    notes: tuple[str, ...]
    """Decisions of the training to show to the user."""

    @property
    def seconds(self) -> float:
        return self.updates * self.update_seconds + self.measurements * self.measurement_seconds


def estimate(job: TrainingJob, runtime: Runtime) -> TrainingEstimate:
    """Measure a few updates and one batch of a measurement, with new weights and without a run folder."""
    context, _ = begin(job, runtime)
    epochs = job.recipe.training.epochs
    return TrainingEstimate(
        updates=epochs * context.sampler.iterations,
        update_seconds=_update_seconds(context),
        measurements=sum(measurement_due(job.recipe, epoch) for epoch in range(epochs)),
        measurement_seconds=sum(_measurement_seconds(context, pool) for pool in context.pools.values()),
        notes=context.notes,
    )


def _update_seconds(context: TrainingContext) -> float:
    perturb = context.job.recipe.perturbation.kind != "none"
    (x_NCHW, y), *_ = context.sampler.batches(0)
    x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)

    def update() -> None:
        float(context.step(x_NCHW, y, epsilon_fraction=1.0, perturb=perturb).loss)

    update()
    return median(_seconds(update) for _ in range(_UPDATES))


def _measurement_seconds(context: TrainingContext, pool: ImagePool) -> float:
    x_NCHW, _ = pool.batch(torch.arange(min(BATCH, pool.n)))
    with torch.no_grad():
        predicted_N = context.model.eval()(x_NCHW).argmax(1)
    batch = replace(pool, x_NCHW=pool.x_NCHW[: len(x_NCHW)], y_N=predicted_N)
    forward = context.step.passes.with_frozen_weights()
    seconds = _seconds(lambda: measure_accuracies(context.model, batch, context.job.recipe, forward))
    return seconds * pool.n / batch.n


def _seconds(work: Callable[[], object]) -> float:
    """Of work that ends with reading a number from the device."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
