"""What the commands of Liu et al.'s measurements share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from robust_eval.landscape.liu.measurement import Setup

Checkpoints = Annotated[
    list[str], typer.Argument(help="Checkpoints of one architecture.", show_default=False)
]
Split = Annotated[str, typer.Option(help="train or test.")]
Examples = Annotated[
    int | None, typer.Option(help="The first N images; 1000 by default, or all where there are fewer.")
]
Steps = Annotated[int, typer.Option(help="PGD steps.")]
BatchSize = Annotated[int | None, typer.Option(help="Images at once.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Names = Annotated[str | None, typer.Option(help="Labels in the figure: AT,AT-AWP.")]
Out = Annotated[Path | None, typer.Option(help="Folder; the same command continues in it.")]


def set_up(
    kind: str,
    version: int,
    checkpoints: list[str],
    *,
    data: str | None,
    data_root: Path | None,
    split: str,
    examples: int | None,
    norm: str | None,
    eps: str | None,
    steps: int,
    arch: str | None,
    normalisation: str | None,
    device: str,
    batch_size: int | None,
    seed: int,
    names: str | None,
) -> Setup:
    """The comparison that a user typed, loaded and checked."""
    from robust_eval.evaluation.planning.options import EvaluationOptions
    from robust_eval.landscape import checkpoints as subjects
    from robust_eval.landscape.liu import measurement

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
    return measurement.make(kind, version, found, steps=steps, batch_size=batch_size, seed=seed)


def introduce(console: Console, made: Setup, folder: Path) -> None:
    from rich.markup import escape

    for subject in made.subjects.each:
        console.print(f"  [bold]{escape(subject.label)}[/bold]  {escape(subject.ref.name)}", highlight=False)
    console.print(f"  measured on  {escape(made.caption())}, BatchNorm in eval mode", highlight=False)
    console.print(f"  folder       {escape(str(folder))}\n", highlight=False, soft_wrap=True)


@contextmanager
def resumable(console: Console, folder: Path) -> Iterator[None]:
    """Ctrl-C is a sentence, and exit code 130."""
    from rich.markup import escape

    try:
        yield
    except KeyboardInterrupt:
        console.print(f"\nStopped. Finished work is in {escape(str(folder))}: the same command goes on.")
        raise typer.Exit(130) from None


def written(console: Console, paths: tuple[Path, ...]) -> None:
    from rich.markup import escape

    console.print(f"Written: {escape(', '.join(map(str, paths)))}", highlight=False, soft_wrap=True)
