"""The types every part of the evaluation speaks. Frozen, and free of files and devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core.threat import ThreatModel

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Architecture:
    """``id`` names a file in ``models/architectures`` (with its sizes), or ``path.py:function``."""

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Normalisation:
    """``(x - mean) / std`` per channel, applied inside the model; x in [0, 1]."""

    name: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class CheckpointRef:
    """What was attacked, so that a stranger can tell whether theirs is the same."""

    name: str
    """File name or zoo id; never a path. ``FILE#part`` for one of several networks in a file."""
    sha256: str
    architecture: Architecture
    classes: int
    normalisation: Normalisation
    format: str
    """``robust-eval``, ``safetensors``, ``foreign``, ``robustbench`` or ``python``."""
    dataset: str | None = None
    trained_with: Mapping[str, Any] | None = None
    """The recipe, threat model and metrics the checkpoint says of itself."""
    notes: tuple[str, ...] = ()
    """How the file was understood: prefixes stripped, normalisation probed, ..."""

    def identity(self) -> dict[str, Any]:
        """The function that is attacked: the file, how it is built, how its input is scaled."""
        return {
            **self.weights,
            "architecture": asdict(self.architecture),
            "normalisation": asdict(self.normalisation),
            "classes": self.classes,
        }

    @property
    def weights(self) -> dict[str, str]:
        """The file, and the part of it where it has several."""
        part = part_name(self.name)
        return {"sha256": self.sha256, **({"part": part} if part else {})}


def part_name(name: str) -> str:
    """Which of several networks in a file a checkpoint's name speaks of: ``ema`` of ``c.pt#ema``, else ''."""
    return name.partition("#")[2]


@dataclass(frozen=True)
class Cost:
    """Passes per image if nothing breaks it early; a backward does not count its forward."""

    forwards: int
    backwards: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forwards + other.forwards, self.backwards + other.backwards)


@dataclass(frozen=True)
class AttackSpec:
    """One attack with every parameter spelled out."""

    id: str
    family: str
    version: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a board: a cascade of attacks, each on the survivors of the one before."""

    id: str
    title: str
    attacks: tuple[AttackSpec, ...]
    """Empty for the clean column."""


@dataclass(frozen=True)
class Suite:
    name: str
    version: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class WorkUnit:
    """The smallest piece of work: one attack on a fixed list of examples, under one seed.

    ``key`` hashes everything the verdicts depend on, so a stored unit is valid for any run that
    plans the same unit, and for no other.
    """

    key: str
    column: str
    attack: AttackSpec | None
    """None: clean predictions alone."""
    stage: int
    """Position in the column's cascade."""
    indices: tuple[int, ...]
    seed: int
    precision: str = "float32"
    """Arithmetic of the search."""


@dataclass(frozen=True)
class Verdicts:
    """The judge's findings on one unit, an entry per example. The only place that says 'robust'."""

    indices: Ints
    labels: Ints
    clean_pred: Ints
    adv_pred: Ints
    distance: NDArray[np.float64]
    in_ball: Bools
    in_box: Bools
    finite: Bools
    robust: Bools

    @property
    def valid(self) -> Bools:
        """False where the attack left ball or box: no success for it, and a flag on the row."""
        valid: Bools = self.in_ball & self.in_box
        return valid


@dataclass(frozen=True)
class UnitResult:
    """What the store keeps of a unit: the verdicts, the evidence and the bill."""

    verdicts: Verdicts
    evidence: NDArray[np.float32]
    """Broken examples' adversarial images as judged, (number broken, C, H, W)."""
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True)
class Slice:
    """Which images were judged."""

    name: str
    split: str
    n: int
    fingerprint: str
    class_names: tuple[str, ...]
    order: str
    """``stored``, or how the examples were reordered before the first n were taken."""


FLOAT32, BFLOAT16 = "float32", "bfloat16"


PRECISIONS = (FLOAT32, BFLOAT16)


__all__ = [
    "Architecture",
    "AttackSpec",
    "CheckpointRef",
    "Column",
    "Cost",
    "Normalisation",
    "Slice",
    "Suite",
    "ThreatModel",
    "UnitResult",
    "Verdicts",
    "WorkUnit",
    "part_name",
]
