"""A run in progress: what it holds, and how it becomes a resume file and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from defenses.training import compilation, initial_weights, optimiser
from defenses.training.batches import BatchSampler, ImagePool, build_pool
from defenses.training.batchnorm import synchronised
from defenses.training.job import TrainingJob
from defenses.training.runtime import Runtime
from defenses.training.step import TrainingStep
from defenses.training.weight_averaging import WeightAverage
from robust_eval.core.errors import UserError
from robust_eval.core.seeds import derive, seed_everything
from robust_eval.models import architectures
from robust_eval.models.loading import python_architecture
from robust_eval.models.normalisation import Normalised


@dataclass
class TrainingProgress:
    """Where the run stands; plain numbers."""

    epoch: int = 0
    """Epochs whose updates and measurement are done."""
    iteration: int = 0
    """Updates done in the epoch after those."""
    loss_sum: float = 0.0
    images: int = 0
    seconds: float = 0.0
    """Of the epoch after those, so far."""
    best: float = -1.0
    best_epoch: int = 0
    worse: int = 0
    """Measurements since the best."""
    one_class: int = 0
    """Measurements in a row that saw one class alone."""
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Run:
    job: TrainingJob
    runtime: Runtime
    network: nn.Module
    model: nn.Module
    step: TrainingStep
    mix: BatchSampler
    average: WeightAverage | None
    pools: dict[str, ImagePool]
    """What is measured: ``train``, ``val``, ``test``."""
    progress: TrainingProgress
    notes: tuple[str, ...] = ()
    """What was decided for this run, a line each."""

    def identity(self) -> dict[str, Any]:
        """The job's; compiled passes round differently, so they are part of it."""
        return self.job.identity() | ({"compiled": True} if self.step.compiled_batch_size is not None else {})

    @property
    def judged(self) -> nn.Module:
        """The network that is measured and saved: the average where there is one."""
        return self.average.network if self.average else self.network

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and strings alone, readable with ``weights_only=True``.

        No generator's state: every random draw is seeded by (seed, epoch, iteration).
        """
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict() if self.average else None,
            "optimiser": self.step.optimiser.state_dict(),
            "progress": vars(self.progress),
            "world": self.runtime.world,
            "threads": torch.get_num_threads(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The state of an interrupted run; KeyError, ValueError or RuntimeError where it does not fit."""
        self.network.load_state_dict(state["network"])
        self.step.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
        self.progress = TrainingProgress(**state["progress"])
        before, now = state.get("world", 1), self.runtime.world
        if before != now:
            self.notes += (
                f"trained on {before} process{'es' * (before > 1)} so far, now on {now}: the batches stay "
                "the same, but the attacks' noise differs, and what BatchNorm sees unless it is synchronised",
            )
        theirs, ours = state.get("threads"), torch.get_num_threads()
        if self.runtime.device.type == "cpu" and theirs not in (None, ours):
            self.notes += (
                f"trained on {theirs} thread{'s' * (theirs > 1)} so far, now on {ours}: sums round "
                "differently, so the run goes on, but not bit for bit",
            )


def begin(job: TrainingJob, runtime: Runtime) -> Run:
    """A fresh run at its first update, its weights drawn from the seed or read from ``--init``."""
    recipe, images = job.recipe, job.train
    seed_everything(derive(job.options.seed, "weights"))
    network = _network(job)
    if job.options.init:
        initial_weights.load_into(
            network,
            job.options.init,
            fresh_head=recipe.training.fresh_head,
            architecture=recipe.architecture,
            normalisation=job.normalisation,
        )
    device = runtime.device
    network = network.to(device).to(memory_format=torch.channels_last)
    model = Normalised(network, job.normalisation).to(device)
    measured = {"train": recipe.selection.train_images, "val": images.n, "test": images.n}
    sets = {"train": job.train, "val": job.validation, "test": job.test}
    rows, note = compilation.compiled_batch_size(job, runtime, model)
    if recipe.training.sync_batch_norm and runtime.world > 1:
        synchronised(network)
        rows, note = None, "BatchNorm is synchronised" + ("; not compiled" if rows else "")
    return Run(
        job=job,
        runtime=runtime,
        network=network,
        model=model,
        step=TrainingStep(
            recipe,
            model,
            optimiser.build_optimiser(network, recipe.optimiser),
            runtime.autocast,
            reduce=runtime.reduce,
            compiled_batch_size=rows,
        ),
        mix=BatchSampler(
            labelled=build_pool([s for s in (job.train, job.extra) if s], device),
            pseudo=build_pool([job.pseudo], device) if job.pseudo else None,
            batch_size=recipe.training.batch_size,
            unlabelled=round(recipe.training.unlabelled * recipe.training.batch_size),
            seed=job.options.seed,
        ),
        average=WeightAverage(network, recipe.training.ema) if recipe.training.ema else None,
        pools={
            name: build_pool([found.take(min(measured[name], found.n))], device)
            for name, found in sets.items()
            if found is not None and measured[name]
        },
        progress=TrainingProgress(),
        notes=(note,) if note else (),
    )


def _network(job: TrainingJob) -> nn.Module:
    recipe, images = job.recipe, job.train
    shape: dict[str, Any] = {
        "classes": images.classes,
        "channels": images.channels,
        "image_size": images.image_size,
    }
    if python_architecture.is_python_file(recipe.architecture):
        return python_architecture.build(recipe.architecture, {**shape, "num_classes": images.classes})
    try:
        return architectures.build(recipe.architecture, **{**shape, **recipe.architecture_arguments})
    except TypeError as error:
        raise UserError(
            f"{recipe.architecture} cannot be built with {recipe.architecture_arguments} ({error}): check "
            "architecture_arguments."
        ) from None
