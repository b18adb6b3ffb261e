"""Train every point of a sweep in its own run folder, which an interrupted sweep continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from defenses.recipes.resolve import resolve
from defenses.runs.files import make_folder
from defenses.sweeps.axes import GridPoint
from defenses.training import resume_file
from defenses.training.display import TrainingDisplay
from defenses.training.job import TrainingJob, prepare
from defenses.training.options import TrainOptions
from defenses.training.runtime import Runtime
from defenses.training.signals import InterruptHandler, UntrainableError
from defenses.training.trainer import train
from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic

FILE = "outcome.json"


@dataclass(frozen=True)
class SweepRun:
    """The outcome of one run of a sweep; stored as ``outcome.json`` in its folder."""

    recipe: str
    values: Mapping[str, str]
    seed: int
    folder: str
    failed: str | None
    """Why training failed (loss not finite, or collapsed network); None if it succeeded."""
    best: Mapping[str, float]
    """Rows of the learning curve: the selected and the last epoch; empty if training failed."""
    last: Mapping[str, float]


def options_of(base: TrainOptions, point: GridPoint, seed: int, out: Path) -> TrainOptions:
    """``base`` with the fields of the point set; they override ``--set``."""
    choices = replace(base.choices, sets=(*base.choices.sets, *point.sets))
    return replace(base, recipe=point.recipe, choices=choices, seed=seed, out=out / point.folder(seed))


def check(base: TrainOptions, points: Sequence[GridPoint]) -> None:
    """Resolve the recipe of every point, so that a wrong value is reported before any training.

    Raises :class:`UserError` for wrong values and for fields that the recipe does not use.
    """
    for point in points:
        options = options_of(base, point, 0, Path())
        recipe = resolve(options.recipe, options.choices).recipe
        unused = [field for field, _ in point.values if field.startswith("perturbation.")]
        if recipe.perturbation.kind == "none" and unused and "perturbation.kind" not in unused:
            raise UserError(
                f"{point.recipe} perturbs no weights, so {unused[0]} changes nothing: sweep a recipe "
                "that does, such as at-awp, or add --set perturbation.kind=awp."
            )


def train_sweep(
    base: TrainOptions,
    points: Sequence[GridPoint],
    seeds: Sequence[int],
    out: Path,
    runtime: Runtime,
    *,
    display: TrainingDisplay,
    stopper: InterruptHandler,
    on_run: Callable[[SweepRun, bool], None] = lambda _run, _stored: None,
) -> list[SweepRun]:
    """Train every point with every seed; runs that are finished in ``out`` are read instead.

    ``on_run`` is called after each run, with True if the run was already stored. A point that cannot be
    trained is recorded, and the sweep continues. Raises ``TrainingInterrupted`` on a signal, after saving
    the state of the run, and :class:`UserError` if ``out`` cannot be written or contains other runs.
    """
    make_folder(out)
    runs = []
    for point in points:
        for seed in seeds:
            options = options_of(base, point, seed, out)
            job = prepare(options)
            finished = _read(job, point)
            stored = finished is not None
            if finished is None:
                finished = _train(job, point, runtime, display, stopper)
                _write(job, finished)
            runs.append(finished)
            on_run(finished, stored)
    return runs


def _train(
    job: TrainingJob, point: GridPoint, runtime: Runtime, display: TrainingDisplay, stopper: InterruptHandler
) -> SweepRun:
    begun = (job.folder / resume_file.FILE).exists()
    job = replace(job, options=replace(job.options, resume=begun))
    blank = SweepRun(point.recipe, dict(point.values), job.options.seed, job.folder.name, None, {}, {})
    try:
        outcome = train(job, runtime, display, stopper)
    except UntrainableError as error:
        return replace(blank, failed=str(error))
    return replace(blank, best=outcome.best, last=outcome.last)


def _digest(job: TrainingJob) -> str:
    return hashlib.sha256(json.dumps(job.identity(), sort_keys=True).encode()).hexdigest()


def _write(job: TrainingJob, run: SweepRun) -> None:
    value = {"identity": _digest(job), **asdict(run)}
    with atomic(job.folder / FILE) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def _read(job: TrainingJob, point: GridPoint) -> SweepRun | None:
    """The stored outcome; None if it is missing or damaged."""
    try:
        value: dict[str, Any] = strict_json.read(job.folder / FILE)
        digest = value.pop("identity")
        run = SweepRun(**value)
    except (UserError, TypeError, AttributeError, KeyError):
        return None
    if digest != _digest(job) or run.values != dict(point.values):
        raise UserError(
            f"{job.folder} contains a run of another sweep (other options or other images). Repeat the "
            "options of that sweep to continue it, or choose another folder with --out."
        )
    return run
