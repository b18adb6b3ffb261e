"""``robust-eval landscape``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust_eval.cli.options import Arch, Data, DataRoot, Device, Eps, Norm, Normalisation, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from robust_eval.landscape.awp.points import Point
    from robust_eval.landscape.awp.scan import Scan, Values


def landscape(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoints of one architecture.", show_default=False)
    ],
    plane: Annotated[
        bool, typer.Option("--plane", help="2-D: |g(a, b) - g(0, 0)| as surface and contours.")
    ] = False,
    perturbation: Annotated[
        str | None, typer.Option(help="awp,rwp: the loss under weight perturbations of growing size.")
    ] = None,
    pre_generated: Annotated[
        bool,
        typer.Option("--pre-generated", help="Also draw the variant with images made once; it misleads."),
    ] = False,
    span: Annotated[str, typer.Option(help="Alpha runs from -SPAN to SPAN, in filter norms.")] = "1",
    points: Annotated[
        int | None, typer.Option(help="Alphas, an odd number: 21 by default, 11 a side with --plane.")
    ] = None,
    gammas: Annotated[
        str | None, typer.Option(help="Sizes for --perturbation, relative to each layer's weights.")
    ] = None,
    directions: Annotated[
        int | None, typer.Option(help="Random directions: 3 by default, 5 draws with --perturbation.")
    ] = None,
    direction_file: Annotated[
        Path | None,
        typer.Option(help="Take the directions from this file, or write them there if it is not there yet."),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "train",
    examples: Annotated[
        int | None, typer.Option(help="The first N images; 1000 by default, or all where there are fewer.")
    ] = None,
    norm: Norm = None,
    eps: Eps = None,
    steps: Annotated[int, typer.Option(help="PGD steps at every point.")] = 10,
    arch: Arch = None,
    normalisation: Normalisation = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Images attacked at once; 128 with --perturbation, as in training.")
    ] = None,
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(help="Of the directions and of the attack's starts.")] = 0,
    names: Annotated[str | None, typer.Option(help="Labels in the figure: AT,AT-AWP.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; the same command continues in it.")] = None,
) -> None:
    """How the adversarial loss changes as the weights move: figures (PNG, SVG), data (JSON), flatness.

    Adversarial images are made anew at every point. All checkpoints get the same directions, images and
    attack noise. Points are stored as they are finished: more of them can be asked for later.
    """
    from rich.markup import escape

    from robust_eval.core import terminal
    from robust_eval.evaluation.planning.options import EvaluationOptions
    from robust_eval.evaluation.planning.units import auto_batch_size
    from robust_eval.landscape import checkpoints as subjects
    from robust_eval.landscape.awp import scan as scanning
    from robust_eval.landscape.awp import views

    console = terminal.console()
    view = views.view(
        plane=plane,
        perturbation=perturbation,
        pre_generated=pre_generated,
        span=span,
        points=points,
        gammas=gammas,
        directions=directions,
    )
    options = EvaluationOptions(
        checkpoint="",
        data=data,
        data_root=data_root,
        split=split,
        examples=examples,
        norm=norm,
        eps=eps,
        arch=arch,
        normalisation=normalisation,
        device=device,
    )
    found = subjects.prepare(checkpoints, options, names)
    usual = view.batch_size or auto_batch_size(found.x_NCHW.shape[1:], found.x_NCHW.device.type)
    scan = scanning.make(
        found,
        count=view.directions,
        steps=steps,
        batch_size=usual if batch_size is None else batch_size,
        seed=seed,
        file=direction_file,
        precision=precision,
    )
    folder = out or scan.default_folder()
    wanted = [*view.plan(), *scan.checks()]
    _introduce(console, scan, wanted, folder)
    try:
        values = _run(console, scan, wanted, folder)
    except KeyboardInterrupt:
        console.print(f"\nStopped. Finished points are in {escape(str(folder))}: the same command goes on.")
        raise typer.Exit(130) from None
    for table in view.finish(scan, values, folder):
        console.print(table)
    stem = escape(str(folder / view.stem))
    console.print(f"Written: {stem}.png, {stem}.svg, {stem}.json", soft_wrap=True)


def _introduce(console: Console, scan: Scan, wanted: Sequence[Point], folder: Path) -> None:
    from rich.markup import escape

    from robust_eval.landscape.awp.figures import caption

    for subject in scan.subjects.each:
        console.print(f"  [bold]{escape(subject.label)}[/bold]  {escape(subject.ref.name)}", highlight=False)
    setting = scan.setting
    console.print(f"  measured on  {escape(caption(scan))}, BatchNorm in eval mode", highlight=False)
    console.print(f"  directions   {scan.directions.count} ({setting.directions[:60]})", highlight=False)
    work = len(wanted) * len(scan.subjects.each)
    console.print(f"  points       {work} of {setting.data.n} images each", highlight=False)
    console.print(f"  folder       {escape(str(folder))}\n", highlight=False, soft_wrap=True)


def _run(console: Console, scan: Scan, wanted: Sequence[Point], folder: Path) -> Values:
    from robust_eval.landscape.awp import scan as scanning
    from robust_eval.landscape.awp.views import Ticker

    with Ticker(len(wanted) * len(scan.subjects.each), console) as ticker:
        return scanning.run(scan, wanted, folder, ticker.told)
