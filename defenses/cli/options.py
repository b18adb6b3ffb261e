"""Options that several commands take, said in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from defenses.recipes.resolve import Choices

Recipe = Annotated[str, typer.Argument(help="A recipe of `defenses list`, or a path to a .toml file.")]
Data = Annotated[str, typer.Option(help="digits, mnist, cifar10, cifar100, svhn, folder:DIR or npz:FILE.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that holds the datasets.")]
Arch = Annotated[str | None, typer.Option(help="Architecture id, or path.py:function.")]
Norm = Annotated[str | None, typer.Option(help="Linf or L2.")]
Eps = Annotated[
    str | None, typer.Option(help="EpsilonSchedule in [0, 1] pixels, for example 8/255; steps scale with it.")
]
Epochs = Annotated[int | None, typer.Option(help="Length of the run; schedules and warm-ups scale with it.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per update.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="FIELD=VALUE for any field, such as inner.steps=7; repeatable."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Precision = Annotated[str, typer.Option(help="32 or bf16 (mixed).")]
Compile = Annotated[
    str, typer.Option(help="torch.compile for the updates: auto (where the work repays it), on or off.")
]
Runs = Annotated[list[Path], typer.Argument(help="Run folders of defenses train, or folders that hold some.")]


def choices(
    data: str,
    arch: str | None,
    norm: str | None,
    eps: str | None,
    epochs: int | None,
    batch_size: int | None,
    sets: list[str] | None,
) -> Choices:
    from defenses.recipes.resolve import Choices

    return Choices(
        data=data, arch=arch, norm=norm, eps=eps, epochs=epochs, batch_size=batch_size, sets=tuple(sets or ())
    )
