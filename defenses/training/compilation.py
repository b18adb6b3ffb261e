"""Whether a run compiles its passes: decided from the planned work, so that a resumed run decides alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from defenses.training.job import TrainingJob
from defenses.training.runtime import Runtime
from robust_eval.models.acceleration import compilation, tuning
from robust_eval.models.loading import python_architecture

LONG = {"cpu": 1e15, "cuda": 1e17}
"""Planned operations from which code of its own repays the minutes that compiling takes: about an hour
at what two CPU cores reach in bfloat16, a quarter of one on a large GPU."""


def compiled_batch_size(job: TrainingJob, runtime: Runtime, model: nn.Module) -> tuple[int | None, str]:
    """(images in a batch to compile for, or None; a line that says so, or '').

    On a CPU without bfloat16 tiles the eager step already runs at 95% of the matrix rate, and compiled
    code is no faster (measured; float32 likewise): ``auto`` stays eager there.
    """
    asked, device = job.options.compile, runtime.device
    rows = len(range(runtime.rank, job.recipe.training.batch_size, runtime.world))
    if asked == "on":
        return rows, "compiled"
    gains = device.type == "cuda" or (job.options.precision == "bf16" and _has_tiles())
    own = not python_architecture.is_python_file(job.recipe.architecture)
    if asked == "off" or not (gains and own) or planned(job, runtime, model) < LONG[device.type]:
        return None, ""
    problem = compilation.unavailable(device)
    if problem:
        return None, f"not compiled: {problem}"
    return rows, "compiled: the first update takes minutes"


def _has_tiles() -> bool:
    """Whether products in bfloat16 are so quick here that everything else weighs."""
    # Torch before 2.11 cannot say.
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16"))


def planned(job: TrainingJob, runtime: Runtime, model: nn.Module) -> float:
    """Operations of all updates, roughly: an attack's step counts two forward passes, an update's three."""
    recipe, images = job.recipe, job.train
    x_NCHW = torch.zeros(1, images.channels, *images.image_size, device=runtime.device)
    training = model.training
    forward = tuning.flops(model.eval(), x_NCHW)
    model.train(training)
    turns = recipe.perturbation.alternations if recipe.perturbation.kind == "awp" else 0
    attack = 2 * recipe.inner.steps * recipe.inner.restarts * max(turns, 1)
    passes = attack + 3 * (1 + turns * recipe.perturbation.steps)
    return float(forward) * passes * images.n * recipe.training.epochs
