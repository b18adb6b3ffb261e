"""What is about to be run, as lines for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from robust_eval.core.devices import pick_device
from robust_eval.core.request import Request
from robust_eval.core.types import FLOAT32, CheckpointRef
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.planning.options import EvaluationOptions


def print_checkpoint(console: Console, ref: CheckpointRef) -> None:
    """How the file was understood, so that the user can object."""
    arguments = ", ".join(f"{key}={value}" for key, value in ref.architecture.arguments.items())
    console.print(f"[bold]{escape(ref.name)}[/bold]  sha256 {ref.sha256[:12]}")
    console.print(f"  format         {ref.format}")
    shown = f"{ref.architecture.id} ({arguments})" if arguments else ref.architecture.id
    console.print(f"  architecture   {escape(shown)}")
    console.print(f"  classes        {ref.classes}")
    console.print(f"  normalisation  {escape(ref.normalisation.name)}")
    for note in ref.notes:
        console.print(f"  [dim]{escape(note)}[/dim]")


def print_request(console: Console, request: Request, device: str) -> None:
    """The checkpoint as it was understood, the images and the attacks; ``device``: as given by the user."""
    print_checkpoint(console, request.checkpoint)
    data = request.data
    images = f"{data.n} of {escape(data.name)}, {data.split} split, order {data.order}"
    precision = "" if request.precision == FLOAT32 else f", attacks in {request.precision}"
    attacks = f"suite {escape(request.suite.name)} under {request.threat}, seed {request.seed}"
    console.print(f"  images         {images}", highlight=False)
    console.print(f"  attacks        {attacks}{precision} on {pick_device(device)}", highlight=False)


def print_opened(console: Console, run: Run, *, brief: bool) -> None:
    """What is about to be run; ``brief``: name and folder in one line."""
    source = run.spec.source
    if run.opened is not None and brief:
        text = f"{run.spec.name} ({run.opened.request.suite.name}): run folder {run.folder}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    elif run.opened is not None:
        device = source.device if isinstance(source, EvaluationOptions) else str(source.job.x_NCHW.device)
        print_request(console, run.opened.request, device)
        console.print(f"  run folder     {escape(str(run.folder))}\n", highlight=False, soft_wrap=True)
