"""Options that several landscape commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from robust_eval.cli.options import recognised
from robust_eval.core.command_options import option
from robust_eval.evaluation.planning.options import ATTACK, DATA, DataOptions

LANDSCAPE, OUTPUT = "Landscape", "Output"
"""Panels of ``--help``."""

Checkpoints = Annotated[
    list[str],
    typer.Argument(
        help="Checkpoint files of one architecture, or robustbench:MODEL_ID.",
        show_default=False,
        callback=recognised,
    ),
]


@dataclass(frozen=True, kw_only=True)
class TrainingDataOptions(DataOptions):
    """The images the loss is measured on; by default the first training images."""

    split: str = option("train", "train or test.", panel=DATA)
    examples: int | None = option(
        None, "Use only the first N examples (default: 1000, or all if there are fewer).", panel=DATA
    )


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """PGD, which makes the adversarial images."""

    steps: int = option(10, "PGD steps.", panel=ATTACK)
    batch_size: int | None = option(None, "Images per batch (default: chosen by image size).", panel=ATTACK)
    seed: int = option(0, "Random seed.", panel=ATTACK)


@dataclass(frozen=True, kw_only=True)
class ScanAttackOptions(AttackOptions):
    """PGD at every point of a scan."""

    precision: str = option(
        "float32",
        "Precision used by the attack (losses are always float32): float32, bfloat16, or auto (bfloat16 if "
        "the device supports it in hardware).",
        panel=ATTACK,
    )


@dataclass(frozen=True, kw_only=True)
class DirectionOptions:
    """The random directions of a scan."""

    directions: int = option(3, "Number of random directions.", panel=LANDSCAPE)
    direction_file: Path | None = option(
        None,
        "Read the directions from this file, or write them to it if it does not exist.",
        panel=LANDSCAPE,
    )


@dataclass(frozen=True, kw_only=True)
class GridOptions(DirectionOptions):
    """Where along the directions the loss is measured."""

    span: str = option("1", "Alpha ranges from -SPAN to SPAN, in filter norms.", panel=LANDSCAPE)
    points: int = option(21, "Number of alphas, odd.", panel=LANDSCAPE)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Labels and folder of the output."""

    names: str | None = option(
        None, "Labels of the checkpoints, separated by commas, for example AT,AT-AWP.", panel=OUTPUT
    )
    out: Path | None = option(
        None, "Run folder; rerun the same command to continue an interrupted one.", panel=OUTPUT
    )
