"""The options of ``robust-eval verify``, declared once; free of torch, so that ``--help`` starts quickly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robust_eval.core.command_options import option

INPUTS, MODEL, AUDIT = "Inputs", "Model", "Audit"
"""Panels of ``--help``."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Which files a result is verified with; None: the default given in the option's help."""

    checkpoint: str | None = option(
        None,
        "Checkpoint file, or robustbench:MODEL_ID (default: the file stored beside a row of a board).",
        panel=INPUTS,
    )
    evidence: Path | None = option(
        None, "Evidence file (default: the file stored beside the result).", panel=INPUTS
    )
    data: str | None = option(None, "Dataset (default: the one named in the result).", panel=INPUTS)
    data_root: Path | None = option(None, "Folder that contains the datasets.", panel=INPUTS)
    arch: str | None = option(None, "Architecture, if it was given to the run.", panel=MODEL)
    normalisation: str | None = option(
        None,
        "Input normalisation, if it was given to the run.",
        flags=("--normalisation", "--normalization"),
        panel=MODEL,
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.", panel=MODEL)
    audit: int = option(
        0,
        "Attack at least N of the robust examples again, in whole units: with the row's own seed, and with "
        "fresh ones. The cost is printed first.",
        panel=AUDIT,
    )
    audit_suite: str | None = option(
        None, "Audit these columns of the result only, such as fgsm,pgd-20 (default: all).", panel=AUDIT
    )
    audit_seed: int | None = option(
        None, "Chooses the units and the fresh seeds (default: drawn at random and recorded).", panel=AUDIT
    )
