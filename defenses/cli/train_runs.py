"""Train one run, or one per seed, and print a summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import typer
from rich.console import Console
from rich.markup import escape

from defenses.training import resume_file
from defenses.training.display import ConsoleTrainingDisplay, SilentTrainingDisplay, TrainingDisplay
from defenses.training.estimate import estimate
from defenses.training.job import TrainingJob, prepare
from defenses.training.options import TrainOptions
from defenses.training.runtime import Runtime, start_runtime
from defenses.training.seeds import parse_seeds, summarise, write_summary
from defenses.training.signals import InterruptHandler, TrainingInterrupted
from defenses.training.trainer import TrainingOutcome, train
from robust_eval.core import signals
from robust_eval.core.errors import UserError
from robust_eval.core.text import duration
from robust_eval.core.threat import format_fraction


def train_runs(options: TrainOptions, console: Console, *, seeds: str | None) -> list[TrainingOutcome]:
    """Train one run per seed, and print the result of each and their mean.

    ``seeds`` is a list such as ``0,1,2``; None trains ``options.seed`` alone. Exits with 130 after Ctrl-C.
    """
    chosen = _chosen_seeds(options, seeds)
    if len(chosen) > 1 and options.out is not None:
        variants = [replace(options, seed=s, out=options.out / f"s{s}") for s in chosen]
    else:
        variants = [replace(options, seed=s) for s in chosen]
    # Errors in the options are reported before the other processes start.
    jobs = [prepare(variants[0])]
    runtime = start_runtime(options.device, options.precision, options.devices, options.nodes)
    outcomes: list[TrainingOutcome] = []
    for variant in variants:
        job = jobs.pop() if jobs else prepare(variant)
        outcomes.append(_train_one(_continued(job) if len(chosen) > 1 else job, runtime, console))
    if len(chosen) > 1 and runtime.rank == 0:
        _report_seeds(console, chosen, outcomes, job)
    return outcomes


def print_plan(options: TrainOptions, console: Console, *, seeds: str | None) -> None:
    """What :func:`train_runs` would train, and its time on one device, measured with a few updates."""
    if options.devices > 1 or options.nodes > 1:
        raise UserError("--dry-run measures one device: leave --devices and --nodes out.")
    chosen = _chosen_seeds(options, seeds)
    job = prepare(replace(options, seed=chosen[0]))
    runtime = start_runtime(options.device, options.precision, 1, 1)
    _introduce(console, job, runtime)
    found = estimate(job, runtime)
    update, measurement = (
        f"{seconds:.3f} s" if seconds < 1 else duration(seconds)
        for seconds in (found.update_seconds, found.measurement_seconds)
    )
    lines = [
        *found.notes,
        f"{job.recipe.training.epochs} epochs, {found.updates:,} updates of {update} each",
        f"{found.measurements} measurements of accuracy, at most {measurement} each",
        f"about {duration(len(chosen) * found.seconds)}" + f" for {len(chosen)} seeds" * (len(chosen) > 1),
    ]
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _chosen_seeds(options: TrainOptions, seeds: str | None) -> tuple[int, ...]:
    if seeds is not None and options.seed:
        raise UserError("--seed and --seeds contradict each other: give one of them.")
    return parse_seeds(seeds) if seeds is not None else (options.seed,)


def _continued(job: TrainingJob) -> TrainingJob:
    """The job of one of several seeds: --resume applies only to seeds with a resume file."""
    begun = (job.folder / resume_file.FILE).exists()
    return replace(job, options=replace(job.options, resume=job.options.resume and begun))


def _train_one(job: TrainingJob, runtime: Runtime, console: Console) -> TrainingOutcome:
    stopper = InterruptHandler()
    display: TrainingDisplay = (
        ConsoleTrainingDisplay(console) if runtime.rank == 0 else SilentTrainingDisplay()
    )
    if runtime.rank == 0:
        _introduce(console, job, runtime)
    try:
        with stopper.listening():
            outcome = train(job, runtime, display, stopper)
    except (TrainingInterrupted, KeyboardInterrupt):
        console.print(
            f"\nInterrupted. The state is in {escape(str(job.folder))}; repeat the command with --resume to "
            "continue."
        )
        raise typer.Exit(signals.exit_code()) from None
    if runtime.rank == 0:
        _report(console, job, outcome)
    return outcome


def _introduce(console: Console, job: TrainingJob, runtime: Runtime) -> None:
    recipe, options = job.recipe, job.options
    lines = {
        "recipe": f"{recipe.name}: {recipe.title}",
        "data": f"{job.train.name}, {_sizes(job)}",
        "network": f"{recipe.architecture}, inputs normalised by {job.normalisation.name}",
        "threat": f"{recipe.threat.norm} {format_fraction(recipe.threat.eps)}; {recipe.inner.steps} steps of "
        f"{format_fraction(recipe.inner.step_size * recipe.threat.eps)}",
        "compute": f"{runtime.device}, {options.precision}, seed {options.seed}",
        "run folder": str(job.folder),
    }
    for name, text in lines.items():
        console.print(f"  {name:12}{text}", highlight=False, markup=False, soft_wrap=True)


def _sizes(job: TrainingJob) -> str:
    named = {
        "training": job.train,
        "validation": job.validation,
        "extra": job.extra,
        "pseudo-labelled": job.pseudo,
    }
    sizes = ", ".join(f"{found.n} {name}" for name, found in named.items() if found is not None)
    return f"{sizes} ({job.left_out} held-out or test images left out)" if job.left_out else sizes


def _report(console: Console, job: TrainingJob, outcome: TrainingOutcome) -> None:
    for name, row in (("best", outcome.best), ("last", outcome.last)):
        steps = job.recipe.selection.steps
        figures = [
            f"{part} {100 * row[f'{part}_clean']:.2f}% clean, {100 * row[f'{part}_pgd']:.2f}% PGD-{steps}"
            for part in ("val", "test")
            if f"{part}_clean" in row
        ]
        measured = "; ".join(figures) or "not measured (no held-out images)"
        console.print(f"  {name}.pt      epoch {row['epoch']:.0f}: {measured}", highlight=False)
    if job.validation is None:
        console.print("  best.pt is the last epoch: selection.validation=0 holds out no images")
    if outcome.ensemble is not None:
        found = outcome.ensemble
        console.print(
            f"  ensemble.pt  val {100 * found.clean:.2f}% clean, {100 * found.pgd:.2f}% PGD", highlight=False
        )
    console.print(f"\nWritten: {escape(str(outcome.folder / 'best.pt'))} and other files in that folder")


def _report_seeds(
    console: Console, seeds: Sequence[int], outcomes: Sequence[TrainingOutcome], job: TrainingJob
) -> None:
    for which, figures in summarise(outcomes).items():
        for name, found in figures.items():
            console.print(
                f"  {which:5} {name:12} {100 * found.mean:6.2f} ± {100 * found.sd:.2f}  "
                f"({100 * found.lowest:.2f} to {100 * found.highest:.2f}, {len(seeds)} seeds)",
                highlight=False,
            )
    last = outcomes[-1].folder
    stem = job.folder.name.removesuffix(f"-s{seeds[-1]}") if job.options.out is None else "seeds"
    path = last.parent / f"{stem}-{len(seeds)}-seeds.json" if stem != "seeds" else last.parent / "seeds.json"
    write_summary(path, seeds, outcomes)
    console.print(f"\nWritten: {escape(str(path))}")
