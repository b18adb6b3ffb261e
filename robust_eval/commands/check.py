"""``robust-eval check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robust_eval.commands._options import (
    Arch,
    Checkpoint,
    Data,
    DataRoot,
    Device,
    Diagnose,
    Eps,
    Norm,
    Normalisation,
)

if TYPE_CHECKING:
    from rich.console import Console

    from robust_eval.probes import Probe

IMAGES = 8


def check(
    checkpoint: Checkpoint,
    data: Data = None,
    data_root: DataRoot = None,
    norm: Norm = None,
    eps: Eps = None,
    arch: Arch = None,
    normalisation: Normalisation = None,
    device: Device = "auto",
    figures: Annotated[bool, typer.Option("--figures", help="Print everything that was measured.")] = False,
    diagnose: Diagnose = False,
) -> None:
    """Load a checkpoint, say how it was understood, and look for red flags on 8 images.

    Exits with 1 if a flag blocks ranking. --norm and --eps matter to --diagnose alone.
    """
    from rich.console import Console

    from robust_eval import evaluation, flags, fresh, prepare, render

    console = Console()
    options = prepare.Options(
        checkpoint=checkpoint,
        suite="clean",
        data=data,
        data_root=data_root,
        norm=norm,
        eps=eps if diagnose or eps else "1/255",
        arch=arch,
        normalisation=normalisation,
        device=device,
    )
    job = fresh.reloading(prepare.prepare(options), options)
    render.print_checkpoint(console, job.request.checkpoint)
    probe = prepare.first(job, IMAGES).probe()
    if figures:
        _print_figures(console, probe)
    found = flags.from_probe(probe)
    if diagnose and probe.no_gradient:
        console.print("  diagnosis      left out: there is no gradient to follow", highlight=False)
    elif diagnose:
        console.print(f"  diagnosis      {render.diagnosis_text(job)}", highlight=False)
        record = evaluation.diagnosis(job)
        if figures:
            for name, value in record.model_dump().items():
                console.print(f"  {name:23} {value}", highlight=False, markup=False)
        found = flags.distinct((*found, *flags.from_diagnosis(record)))
    render.print_flags(console, found)
    if any(flag.severity == flags.BLOCKS for flag in found):
        raise typer.Exit(1)


def _print_figures(console: Console, probe: Probe) -> None:
    from dataclasses import asdict

    for name, value in asdict(probe).items():
        parts = value if isinstance(value, dict) else {"": value}
        for part, figure in parts.items():
            text = f"{figure:.1e}" if isinstance(figure, float) else str(figure)
            console.print(f"  {f'{name} {part}':23} {text}", highlight=False, markup=False)
