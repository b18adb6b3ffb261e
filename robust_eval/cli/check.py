"""``robust-eval check``: load a checkpoint, report how it was interpreted, and probe it for flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robust_eval.cli.options import Checkpoint, Diagnose
from robust_eval.core.command_options import expand_options
from robust_eval.evaluation.planning.options import DataOptions, ModelOptions, ThreatOptions

if TYPE_CHECKING:
    from rich.console import Console

    from robust_eval.evaluation.job import Job
    from robust_eval.results import ColumnRecord, FlagRecord
    from robust_eval.results.flags.figures import Probe

IMAGES = 8
"""Images that are probed."""
CLEAN_IMAGES = 200
"""Images on which clean accuracy is measured: enough to detect a wrong normalisation or class order."""


@expand_options
def check(
    checkpoint: Checkpoint,
    data: DataOptions,
    threat: ThreatOptions,
    model: ModelOptions,
    figures: Annotated[bool, typer.Option("--figures", help="Print every measured figure.")] = False,
    diagnose: Diagnose = False,
) -> None:
    """Load a checkpoint, print how it was interpreted, and check it for flags.

    Measures clean accuracy on up to 200 images, compares it with the checkpoint's own record, and probes the
    model on 8 images. Exits with 1 if a flag blocks ranking. --norm and --eps are used by --diagnose, by the
    probes of gradients in the ball, and to compare input normalisations if the file records none.
    """
    from robust_eval.cli import tables
    from robust_eval.core import terminal
    from robust_eval.evaluation import prepare
    from robust_eval.evaluation.checks import diagnosis
    from robust_eval.evaluation.checks.probes import probe_job
    from robust_eval.evaluation.planning.options import EvaluationOptions
    from robust_eval.evaluation.progress import descriptions
    from robust_eval.results import flags

    console = terminal.console()
    chosen = {**vars(data), **vars(threat), **vars(model)}
    options = EvaluationOptions(checkpoint=checkpoint, suite="clean", **chosen)
    settings = prepare.check(options)
    loaded, images = prepare.load(options, settings)
    if not diagnose:
        options = prepare.with_some_epsilon(options, loaded.ref, images.chosen)
    job = prepare.build_job(options, settings, loaded, images)
    descriptions.print_checkpoint(console, job.request.checkpoint)
    probe = probe_job(prepare.with_first_images(job, IMAGES), quick=True)
    clean = _clean(job)
    console.print(f"  clean accuracy {_clean_text(job, clean)}", highlight=False)
    if figures:
        _print_figures(console, probe)
    overlap = flags.from_overlap(job.overlap)
    found = flags.distinct((*job.raised, *flags.from_probe(probe), *_flags_from_clean(job, clean), *overlap))
    if diagnose and probe.no_gradient:
        console.print("  diagnosis      skipped: the model has no input gradient", highlight=False)
    elif diagnose:
        console.print(f"  diagnosis      {diagnosis.cost_text(job)}", highlight=False)
        record = diagnosis.diagnose_job(job)
        if figures:
            for name, value in record.model_dump().items():
                console.print(f"  {name:23} {value}", highlight=False, markup=False)
        found = flags.distinct((*found, *flags.from_diagnosis(record)))
    tables.print_flags(console, found)
    if any(flag.severity == flags.BLOCKS for flag in found):
        raise typer.Exit(1)


def _clean(job: Job) -> ColumnRecord:
    from robust_eval.results import summary
    from robust_eval.verification.predictions import predict

    x, y = job.x_NCHW[:CLEAN_IMAGES], job.y_N[:CLEAN_IMAGES]
    return summary.clean_column("Clean", predict(job.model, x, y, job.request.batch_size).correct, ())


def _clean_text(job: Job, clean: ColumnRecord) -> str:
    """``95.00% (190/200 of digits); 97.20% by the checkpoint's own record``."""
    from rich.markup import escape

    from robust_eval.results import checkpoint_claims

    data = job.request.data
    text = f"{100 * clean.accuracy:.2f}% ({clean.n_robust}/{clean.n} of {escape(data.name)}, {data.split})"
    claim = checkpoint_claims.clean_claim(job.request.checkpoint.trained_with)
    if claim is None:
        return text
    where = "" if claim.on_test_set else " of images held out from training"
    return f"{text}; {100 * claim.accuracy:.2f}% by the checkpoint's own record{where}"


def _flags_from_clean(job: Job, clean: ColumnRecord) -> tuple[FlagRecord, ...]:
    """The flags of a run that follow from the clean column and the checkpoint's own record."""
    from robust_eval.results import flags
    from robust_eval.results.request_records import request_records

    checkpoint, data, _, _ = request_records(job.request)
    alone = flags.from_columns({"clean": clean}, checkpoint.classes)
    return (
        *(flag for flag in alone if flag.id == "collapsed"),
        *flags.from_record(checkpoint, data, clean),
    )


def _print_figures(console: Console, probe: Probe) -> None:
    from dataclasses import asdict

    for name, value in asdict(probe).items():
        parts = value if isinstance(value, dict) else {"": value}
        for part, figure in parts.items():
            text = f"{figure:.1e}" if isinstance(figure, float) else str(figure)
            console.print(f"  {f'{name} {part}':23} {text}", highlight=False, markup=False)
