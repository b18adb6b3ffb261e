"""Whether a run compiles its passes: depends only on the planned work, so a resumed run decides the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from defenses.training.job import TrainingJob
from defenses.training.runtime import Runtime
from robust_eval.models.acceleration import compilation, tuning
from robust_eval.models.loading import network_sources

MIN_OPERATIONS = {"cpu": 1e15, "cuda": 1e17}
"""Planned floating-point operations from which compiling, which takes minutes, saves time: about an hour
of work for two CPU cores in bfloat16, a quarter of an hour on a large GPU."""


def choose_compiled_batch_size(
    job: TrainingJob, runtime: Runtime, model: nn.Module
) -> tuple[int | None, str]:
    """The batch size to compile for (None: do not compile) and a note for the user ('' for none).

    On a CPU without bfloat16 tiles (AMX) the eager step already runs at 95% of the matrix rate, and
    compiled code is no faster (measured; also in float32): ``auto`` does not compile there.
    """
    mode, device = job.options.compile, runtime.device
    batch_size = len(range(runtime.rank, job.recipe.training.batch_size, runtime.world))
    if mode == "on":
        return batch_size, "compiled"
    gains = device.type == "cuda" or (job.options.precision == "bf16" and _has_tiles())
    known = not network_sources.is_external(job.recipe.architecture)
    if mode == "off" or not (gains and known):
        return None, ""
    if planned_operations(job, runtime, model) < MIN_OPERATIONS[device.type]:
        return None, ""
    problem = compilation.unavailable_reason(device)
    if problem:
        return None, f"not compiled: {problem}"
    return batch_size, "compiled: the first update takes minutes"


def _has_tiles() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware (AMX), so that other operations dominate."""
    # Torch before 2.11 has no get_capabilities.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def planned_operations(job: TrainingJob, runtime: Runtime, model: nn.Module) -> float:
    """Approximate operations of all updates; an attack step counts as 2 forward passes, an update as 3."""
    recipe, images = job.recipe, job.train
    x_NCHW = torch.zeros(1, images.channels, *images.image_size, device=runtime.device)
    training = model.training
    forward = tuning.flops(model.eval(), x_NCHW)
    model.train(training)
    alternations = recipe.perturbation.alternations if recipe.perturbation.kind == "awp" else 0
    attack = 2 * recipe.inner.steps * recipe.inner.restarts * max(alternations, 1)
    passes = attack + 3 * (1 + alternations * recipe.perturbation.steps)
    return float(forward) * passes * images.n * recipe.training.epochs
