"""Arguments and options that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from defenses.recipes.choices import DATA
from defenses.training.options import MACHINE
from robust_eval.core.errors import UserError

Recipe = Annotated[str, typer.Argument(help="A recipe of `defenses list`, or a path to a .toml file.")]
Runs = Annotated[
    list[Path], typer.Argument(help="Run folders of defenses train, or folders that contain such folders.")
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that contains the datasets.", rich_help_panel=DATA)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE)]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads (default: the choice of torch).", rich_help_panel=MACHINE),
]


MOST_THREADS = 10_000


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch; None leaves torch's default unchanged."""
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads must be at least 1 and at most {MOST_THREADS:,}.")
    import torch

    torch.set_num_threads(threads)


def typed_command() -> str:
    """The command line of this process, for a run's record."""
    return shlex.join(["defenses", *sys.argv[1:]])
