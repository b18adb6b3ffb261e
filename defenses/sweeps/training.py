"""Train every point of a sweep, each in a run folder of its own that goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from defenses.recipes.resolve import resolve
from defenses.runs.files import make_folder, write_atomically
from defenses.sweeps.axes import GridPoint
from defenses.training import resume_file
from defenses.training.display import Display
from defenses.training.job import Job, Options, prepare
from defenses.training.runtime import Runtime
from defenses.training.signals import Stopper, UntrainableError
from defenses.training.trainer import train
from robust_eval.core import strict_json
from robust_eval.core.errors import UserError

FILE = "outcome.json"


@dataclass(frozen=True)
class SweepRun:
    """How one run of a sweep ended."""

    recipe: str
    values: Mapping[str, str]
    seed: int
    folder: str
    failed: str | None
    """Why it could not be trained (its loss became NaN, or it collapsed); None where it was."""
    best: Mapping[str, float]
    """The learning curve's rows of the chosen and of the last epoch; empty where it failed."""
    last: Mapping[str, float]


def options_of(base: Options, place: GridPoint, seed: int, out: Path) -> Options:
    """``base`` as typed, with the point's fields set after the user's own ``--set``."""
    choices = replace(base.choices, sets=(*base.choices.sets, *place.sets))
    return replace(base, recipe=place.recipe, choices=choices, seed=seed, out=out / place.folder(seed))


def check(base: Options, places: Sequence[GridPoint]) -> None:
    """Resolve every point before the first is trained: a wrong value costs nothing then."""
    for place in places:
        options = options_of(base, place, 0, Path())
        recipe = resolve(options.recipe, options.choices).recipe
        idle = [field for field, _ in place.values if field.startswith("perturbation.")]
        if recipe.perturbation.kind == "none" and idle and "perturbation.kind" not in idle:
            raise UserError(
                f"{place.recipe} perturbs no weights, so {idle[0]} changes nothing: sweep a recipe "
                "that does, such as at-awp, or add --set perturbation.kind=awp."
            )


def run(
    base: Options,
    places: Sequence[GridPoint],
    seeds: Sequence[int],
    out: Path,
    runtime: Runtime,
    *,
    display: Display,
    stopper: Stopper,
    told: Callable[[SweepRun, bool], None] = lambda _trained, _known: None,
) -> list[SweepRun]:
    """Every point and seed; what is finished in ``out`` is not trained again.

    ``told`` hears of each, and whether it was there already. A point that cannot be trained is recorded and
    the sweep goes on. Raises Stopped on a signal with the run's state saved, and :class:`UserError` where
    ``out`` cannot be written or holds other runs.
    """
    make_folder(out)
    found = []
    for place in places:
        for seed in seeds:
            options = options_of(base, place, seed, out)
            job = prepare(options)
            trained = _read(job, place)
            known = trained is not None
            if trained is None:
                trained = _train(job, place, runtime, display, stopper)
                _write(job, trained)
            found.append(trained)
            told(trained, known)
    return found


def _train(job: Job, place: GridPoint, runtime: Runtime, display: Display, stopper: Stopper) -> SweepRun:
    going_on = (job.folder / resume_file.FILE).exists()
    job = replace(job, options=replace(job.options, resume=going_on))
    blank = SweepRun(place.recipe, dict(place.values), job.options.seed, job.folder.name, None, {}, {})
    try:
        outcome = train(job, runtime, display, stopper)
    except UntrainableError as error:
        return replace(blank, failed=str(error))
    return replace(blank, best=outcome.best, last=outcome.last)


def _digest(job: Job) -> str:
    return hashlib.sha256(json.dumps(job.identity(), sort_keys=True).encode()).hexdigest()


def _write(job: Job, trained: SweepRun) -> None:
    value = {"identity": _digest(job), **asdict(trained)}
    write_atomically(job.folder / FILE, (json.dumps(value, indent=1) + "\n").encode())


def _read(job: Job, place: GridPoint) -> SweepRun | None:
    """The stored outcome; None where there is none yet, or a damaged one."""
    try:
        value: dict[str, Any] = strict_json.read(job.folder / FILE)
        digest = value.pop("identity")
        trained = SweepRun(**value)
    except (UserError, TypeError, AttributeError, KeyError):
        return None
    if digest != _digest(job) or trained.values != dict(place.values):
        raise UserError(
            f"{job.folder} holds a run of another sweep (other options or other images). Repeat the "
            "options of that sweep to go on with it, or choose another folder with --out."
        )
    return trained
