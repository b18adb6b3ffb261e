"""Write the checkpoints of a run and its record (``run.json``)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from defenses.runs import learning_curve
from defenses.runs.files import RECORD
from defenses.training.job import TrainingJob
from robust_eval.core.devices import device_name, pick_device
from robust_eval.core.files import atomic
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Architecture
from robust_eval.models.loading import checkpoint

Metrics = Mapping[str, Any]
Selected = Literal["validation", "last", "unknown"]
"""How the epoch of a checkpoint was selected."""


def save_model(
    job: TrainingJob,
    path: Path,
    network: nn.Module,
    metrics: Metrics,
    *,
    members: int = 0,
    selected: Selected = "unknown",
) -> None:
    """Write a checkpoint that ``robust-eval run`` loads without further arguments.

    ``members`` > 0: ``network`` is an ensemble of this many networks of the recipe. ``selected``: how this
    epoch was selected; leaderboards show it, independently of the file's name.
    """
    recipe, images = job.recipe, job.train
    architecture = job.architecture
    if members:
        arguments = {"of": architecture.id, "members": members, "arguments": dict(architecture.arguments)}
        architecture = Architecture("ensemble", arguments)
    checkpoint.save(
        path,
        network,
        checkpoint.CheckpointDescription(
            architecture=architecture,
            normalisation=job.normalisation,
            classes=images.classes,
            channels=images.channels,
            image_size=images.image_size,
            dataset=images.name,
            threat=ThreatModel(recipe.threat.norm, recipe.threat.eps) if recipe.inner.steps else None,
            recipe=recipe.model_dump(mode="json"),
            # Without times, so that repeating a run gives the same file; leaderboards identify it by its
            # hash.
            metrics={name: value for name, value in metrics.items() if name not in learning_curve.TIMES},
            provenance={
                "seed": job.options.seed,
                "precision": job.options.precision,
                "selected": selected,
                "trained_on": job.trained_on,
                **job.inputs,
                **environment(pick_device(job.options.device)),
            },
        ),
    )


def environment(device: torch.device) -> dict[str, str | int]:
    """Versions and hardware that change the rounding of the weights; on a CPU also the number of threads."""
    hardware: dict[str, str | int] = (
        {"device": device_name(device)}
        if device.type == "cuda"
        else {"device": platform.machine(), "threads": torch.get_num_threads()}
    )
    return {
        "robust_eval": version("robust-eval"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **hardware,
    }


def write_record(job: TrainingJob, identity: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Write ``run.json``: resolved recipe with the source of each field, data, seed, versions, command, and
    the decisions that the user was shown."""
    sets = {"train": job.train, "validation": job.validation, "extra": job.extra, "pseudo": job.pseudo}
    record = {
        "command": job.options.command,
        "dataset": job.train.name,
        "images": {name: images.n for name, images in sets.items() if images is not None},
        "environment": environment(pick_device(job.options.device)),
        **identity,
        "sources": dict(job.sources),
        "notes": list(notes),
    }
    with atomic(job.folder / RECORD) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())
