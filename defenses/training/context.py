"""What stays the same during training, and the setup of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from defenses.training import compilation, initial_weights
from defenses.training.batches import BatchSampler, ImagePool, build_pool
from defenses.training.batchnorm import synchronise_batchnorm
from defenses.training.job import TrainingJob
from defenses.training.optimiser import build_optimiser
from defenses.training.runtime import Runtime
from defenses.training.state import TrainingState
from defenses.training.step import TrainingStep
from defenses.training.weight_averaging import WeightAverage
from robust_eval.core.errors import UserError
from robust_eval.core.seeds import derive, seed_everything
from robust_eval.models import architectures
from robust_eval.models.isolation import copy_inputs
from robust_eval.models.loading import network_sources
from robust_eval.models.normalisation import Normalised


@dataclass(frozen=True)
class TrainingContext:
    """Read-only: the job, where it is computed, the (compiled) step and the images."""

    job: TrainingJob
    runtime: Runtime
    model: nn.Module
    """Images in [0, 1] to logits, with the weights of the state's network."""
    step: TrainingStep
    sampler: BatchSampler
    pools: Mapping[str, ImagePool]
    """The images that accuracy is measured on: ``train``, ``val``, ``test``."""
    notes: tuple[str, ...] = ()
    """Decisions to show to the user, one line each."""

    def identity(self) -> dict[str, Any]:
        """The job's identity; compiled passes round differently, so compilation is part of it."""
        compiled = self.step.compiled_batch_size is not None
        return self.job.identity() | ({"compiled": True} if compiled else {})


def begin(job: TrainingJob, runtime: Runtime) -> tuple[TrainingContext, TrainingState]:
    """Set up a run before its first update; the weights are drawn from the seed or read from ``--init``."""
    recipe, device = job.recipe, runtime.device
    network = _initial_network(job).to(device).to(memory_format=torch.channels_last)
    model = Normalised(network, job.normalisation).to(device)
    compiled_batch_size, note = compilation.choose_compiled_batch_size(job, runtime, model)
    if recipe.training.sync_batch_norm and runtime.world > 1:
        synchronise_batchnorm(network)
        note = "BatchNorm is synchronised" + ("; not compiled" if compiled_batch_size else "")
        compiled_batch_size = None
    optimiser = build_optimiser(network, recipe.optimiser)
    step = TrainingStep(
        recipe,
        model,
        optimiser,
        runtime.autocast,
        reduce=runtime.reduce,
        compiled_batch_size=compiled_batch_size,
    )
    average = WeightAverage(network, recipe.training.ema) if recipe.training.ema else None
    context = TrainingContext(
        job=job,
        runtime=runtime,
        model=model,
        step=step,
        sampler=_sampler(job, device),
        pools=_measured_pools(job, device),
        notes=tuple(filter(None, (note, step.perturbation.note))),
    )
    return context, TrainingState(network, optimiser, average)


def _initial_network(job: TrainingJob) -> nn.Module:
    recipe = job.recipe
    seed_everything(derive(job.options.seed, "weights"))
    network = _build_network(job)
    if job.options.init:
        initial_weights.load_into(
            network,
            job.options.init,
            fresh_head=recipe.training.fresh_head,
            architecture=recipe.architecture,
            normalisation=job.normalisation,
        )
    return network


def _build_network(job: TrainingJob) -> nn.Module:
    recipe, images = job.recipe, job.train
    shape = network_sources.Shape(images.classes, images.channels, images.image_size)
    if network_sources.is_external(recipe.architecture):
        network = network_sources.build(recipe.architecture, shape, recipe.architecture_arguments)
        return copy_inputs(network)
    try:
        return architectures.build(recipe.architecture, **{**vars(shape), **recipe.architecture_arguments})
    except TypeError as error:
        raise UserError(
            f"{recipe.architecture} cannot be built with {recipe.architecture_arguments} ({error}): check "
            "architecture_arguments."
        ) from None


def _sampler(job: TrainingJob, device: torch.device) -> BatchSampler:
    training = job.recipe.training
    return BatchSampler(
        labelled=build_pool([images for images in (job.train, job.extra) if images], device),
        pseudo=build_pool([job.pseudo], device) if job.pseudo else None,
        batch_size=training.batch_size,
        unlabelled=round(training.unlabelled * training.batch_size),
        seed=job.options.seed,
    )


def _measured_pools(job: TrainingJob, device: torch.device) -> dict[str, ImagePool]:
    limits = {"train": job.recipe.selection.train_images, "val": job.train.n, "test": job.train.n}
    sets = {"train": job.train, "val": job.validation, "test": job.test}
    return {
        name: build_pool([images.take(min(limits[name], images.n))], device)
        for name, images in sets.items()
        if images is not None and limits[name]
    }
