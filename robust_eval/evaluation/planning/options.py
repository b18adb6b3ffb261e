"""TODO."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """``robust-eval run`` as typed; None where the user left the choice to us."""

    checkpoint: str
    suite: str = "full"
    data: str | None = None
    data_root: Path | None = None
    split: str = "test"
    examples: int | None = None
    norm: str | None = None
    eps: str | None = None
    arch: str | None = None
    normalisation: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    seed: int = 0
    precision: str = "float32"
    compile: str = "auto"
    blocks: int = 1
    """Parts of the examples that share no unit: those of ``--shard``."""

    def command(self) -> str:
        """The command that repeats this run, with file names in place of paths."""
        suite = ",".join(_bare(part) for part in self.suite.split(","))
        words = ["robust-eval", "run", _bare(self.checkpoint), "--suite", suite]
        named: list[tuple[str, Any]] = [
            ("--data", None if self.data is None else _bare(self.data)),
            ("--split", None if self.split == "test" else self.split),
            ("--examples", self.examples),
            ("--norm", self.norm),
            ("--eps", self.eps),
            ("--arch", None if self.arch is None else _bare(self.arch)),
            ("--normalisation", self.normalisation),
            ("--batch-size", self.batch_size),
            ("--seed", self.seed),
            ("--precision", None if self.precision == "float32" else self.precision),
            ("--compile", None if self.compile == "auto" else self.compile),
            ("--blocks", None if self.blocks == 1 else self.blocks),
        ]
        for option, value in named:
            words += [] if value is None else [option, str(value)]
        return shlex.join(words)


def _bare(text: str) -> str:
    kind, colon, rest = text.partition(":")
    if colon and kind in ("npz", "folder"):
        return f"{kind}:{Path(rest).name}"
    if colon and kind.endswith(".py"):
        return f"{Path(kind).name}:{rest}"
    return text if colon or "/" not in text else Path(text).name
