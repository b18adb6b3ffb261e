"""The options of ``defenses train``. Imports nothing heavy: ``--help`` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from defenses.recipes.choices import DATA, Choices
from robust_eval.core.command_options import option

TRAINING, MACHINE, OUTPUT = "Training", "Machine", "Output"
"""Panels of ``--help``."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where the datasets are and how the machine computes; shared by ``train`` and ``sweep``."""

    data_root: Path | None = option(None, "Folder that contains the datasets.", panel=DATA)
    device: str = option("auto", "auto, cpu, cuda or cuda:N.", panel=MACHINE)
    precision: str = option("32", "32 or bf16 (mixed precision).", panel=MACHINE)
    compile: str = option(
        "auto",
        "torch.compile for the updates: auto (if the run is long enough), on or off.",
        panel=MACHINE,
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(MachineOptions):
    """One training run, as ``defenses train`` receives it."""

    recipe: str = ""
    choices: Choices = field(default_factory=Choices)
    init: str | None = option(None, "Checkpoint with the initial weights.", panel=TRAINING)
    extra_data: str | None = option(None, "More labelled images: npz:FILE or folder:DIR.", panel=DATA)
    unlabelled: str | None = option(
        None, "Pseudo-labelled images, written by `defenses pseudo-label`.", panel=DATA
    )
    seed: int = option(0, "Random seed of weights, batches and attacks.", panel=TRAINING)
    devices: int = option(1, "Processes per machine, one per device.", panel=MACHINE)
    nodes: int = option(1, "Number of machines; start the command on each of them.", panel=MACHINE)
    out: Path | None = option(
        None, "Run folder (default: runs/RECIPE-DATA-ARCHITECTURE-sSEED).", panel=OUTPUT
    )
    resume: bool = option(
        False,
        "Continue an interrupted run; give the same options again.",
        panel=OUTPUT,
    )
    tensorboard: bool = option(
        True,
        "Write TensorBoard files next to curve.csv.",
        flags=("--tensorboard/--no-tensorboard",),
        panel=OUTPUT,
    )
    command: str = ""
    """The command as typed, for the run's record."""
