"""What a user may choose about an evaluation: one dataclass, from which the interfaces are derived.

The options of ``robust-eval run`` and ``check`` and the command recorded in a result are made from these
fields. The keyword arguments of :func:`robust_eval.evaluate` have the names and defaults of
:class:`SearchOptions`, which a test checks.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from robust_eval.core.command_options import as_arguments, option, without_folders
from robust_eval.core.errors import UserError

DATA, MODEL, ATTACK, SEARCH, MACHINES = "Data", "Model", "Attack", "Search", "Processes and machines"
"""Panels of ``--help``. The search is what attacks do."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images are evaluated; None: what the checkpoint was trained on, all of it."""

    data: str | None = option(
        None,
        "digits, mnist, cifar10, cifar100, svhn, imagenet, tiny-imagenet, cifar10-c, cifar100-c, imagenet-c, "
        "torchvision:NAME, hf:NAME, folder:DIR or npz:FILE (default: what the checkpoint was trained on).",
        panel=DATA,
        path=True,
    )
    data_root: Path | None = option(
        None,
        "Folder that contains the datasets (default: $ROBUST_EVAL_DATA or ~/.cache/robust-eval).",
        panel=DATA,
        recorded="never",
    )
    split: str = option("test", "test, train or val.", panel=DATA)
    examples: int | None = option(None, "Use only the first N examples.", panel=DATA)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a checkpoint file becomes a model; None: detected."""

    arch: str | None = option(
        None,
        "Architecture id, timm:NAME, torchvision:NAME or robustbench:MODEL_ID, or path.py:function or "
        "package.module:function, whose code is run. ?NAME=VALUE&NAME=VALUE: its arguments.",
        panel=MODEL,
        path=True,
    )
    normalisation: str | None = option(
        None,
        "Input normalisation, if it should not be detected: a name, or MEAN/STD such as "
        "0.49,0.48,0.45/0.25,0.24,0.26.",
        flags=("--normalisation", "--normalization"),
        panel=MODEL,
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.", panel=MODEL, recorded="never")


@dataclass(frozen=True, kw_only=True)
class ThreatOptions:
    """The threat model; None: the one the checkpoint was trained for, else the dataset's usual one."""

    norm: str | None = option(
        None, "Linf or L2 (default: that of the checkpoint's training, else Linf).", panel=ATTACK
    )
    eps: str | None = option(
        None,
        "Largest perturbation of pixels in [0, 1], for example 8/255 (default: that of the checkpoint's "
        "training, else the usual value for the dataset).",
        panel=ATTACK,
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How the attacks are computed. The verdicts are always computed by the original model in float32."""

    batch_size: int | None = option(None, "Examples per unit (default: chosen by image size).", panel=SEARCH)
    seed: int = option(0, "Random seed of all attacks.", panel=ATTACK, recorded="always")
    precision: str = option(
        "float32",
        "Precision used by the attacks (verdicts are always float32): float32, bfloat16, or auto (bfloat16 "
        "if the device supports it in hardware).",
        panel=SEARCH,
    )
    compile: str = option(
        "auto", "torch.compile for the attacks: auto (if the run is long enough), on or off.", panel=SEARCH
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(SearchOptions, ModelOptions, ThreatOptions, DataOptions):
    """One checkpoint under one suite, as ``robust-eval run`` receives it."""

    checkpoint: str = ""
    suite: str = "full"
    shards: int = option(
        1,
        "Number of shards to emulate in a single run, which then has the units and verdicts of N runs with "
        "--shard I/N.",
        flags=("--shards", "--blocks"),
        panel=MACHINES,
    )

    def command(self) -> str:
        """The command that repeats this run, with file names instead of paths."""
        suite = ",".join(without_folders(part) for part in self.suite.split(","))
        words = ["robust-eval", "run", without_folders(self.checkpoint), "--suite", suite]
        return shlex.join([*words, *as_arguments(self)])


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """The processes of a run and their resources; None: chosen."""

    workers: int | None = option(
        None,
        "Number of processes (default: the fastest, after a short measurement; on a Ray cluster one per GPU "
        "or CPU core).",
        panel=MACHINES,
    )
    cpus: int | None = option(
        None,
        "CPUs, and threads, per process (default: all cores are used; on a Ray cluster 1).",
        flags=("--worker-cpus",),
        panel=MACHINES,
    )
    address: str | None = option(
        None,
        "Ray: auto (the cluster that runs on this machine), HOST:PORT, or local (start a private cluster).",
        panel=MACHINES,
    )
    gpus: float | None = option(
        None, "Ray: GPUs per worker; 0.5: two workers share one.", flags=("--worker-gpus",), panel=MACHINES
    )
    memory: float | None = option(
        None, "Ray: memory per worker, in GiB.", flags=("--worker-memory",), panel=MACHINES
    )


def check_workers(options: ClusterOptions) -> None:
    """Raise :class:`UserError` for fewer than one process, or one CPU per process."""
    for name, value in (("--workers", options.workers), ("--worker-cpus", options.cpus)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}.")
