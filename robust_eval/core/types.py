"""Immutable types used throughout the evaluation: checkpoints, attacks, columns, units and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core.threat import ThreatModel

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Architecture:
    """``id`` such as ``wrn-34-10`` or ``timm:NAME``; ``arguments`` of the function that builds it."""

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Normalisation:
    """``(x - mean) / std`` per channel, applied inside the model, for x in [0, 1]."""

    name: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class CheckpointRef:
    """Identifies the evaluated checkpoint."""

    name: str
    """File name or zoo id, without folders. ``FILE#part`` for one of several networks in a file."""
    sha256: str
    architecture: Architecture
    classes: int
    normalisation: Normalisation
    format: str
    """``robust-eval``, ``safetensors``, ``foreign``, ``robustbench`` or ``python``."""
    dataset: str | None = None
    trained_with: Mapping[str, Any] | None = None
    """Recipe, threat model and metrics recorded in the checkpoint (unverified claims)."""
    notes: tuple[str, ...] = ()
    """How the file was interpreted: removed prefixes, chosen normalisation, etc."""

    def identity(self) -> dict[str, Any]:
        """What determines the evaluated function: weights, architecture and normalisation."""
        return {
            **self.weights,
            "architecture": asdict(self.architecture),
            "normalisation": asdict(self.normalisation),
            "classes": self.classes,
        }

    @property
    def weights(self) -> dict[str, str]:
        """Hash of the file, and the part that is used if it holds several networks."""
        part = part_name(self.name)
        return {"sha256": self.sha256, **({"part": part} if part else {})}


def part_name(name: str) -> str:
    """The part in a checkpoint's name: ``ema`` for ``c.pt#ema``, '' without one."""
    return name.partition("#")[2]


@dataclass(frozen=True)
class Cost:
    """Forward and backward passes per image if it stays robust; a backward pass excludes its forward pass."""

    forwards: int
    backwards: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forwards + other.forwards, self.backwards + other.backwards)


@dataclass(frozen=True)
class AttackSpec:
    """One attack with all parameters, defaults included."""

    id: str
    family: str
    version: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A named cascade: each attack runs on the survivors of the attack before it."""

    id: str
    title: str
    attacks: tuple[AttackSpec, ...]
    """Empty for the clean column."""


@dataclass(frozen=True)
class Suite:
    """A named list of columns."""

    name: str
    version: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class WorkUnit:
    """The smallest piece of work: one attack on a fixed batch of examples with one seed.

    ``key`` hashes everything that the verdicts depend on: a stored unit is valid for every run that
    plans a unit with the same key.
    """

    key: str
    column: str
    attack: AttackSpec | None
    """None: clean predictions only."""
    stage: int
    """Position in the column's cascade."""
    indices: tuple[int, ...]
    seed: int
    precision: str = "float32"
    """Precision of the attack; verdicts are always computed in float32."""


@dataclass(frozen=True)
class Verdicts:
    """The judge's verdicts on one unit, one entry per example."""

    indices: Ints
    labels: Ints
    adv_pred: Ints
    distance: NDArray[np.float64]
    in_ball: Bools
    in_box: Bools
    finite: Bools
    robust: Bools

    @property
    def valid(self) -> Bools:
        """Whether the adversarial image is in ball and box; an invalid image counts as no success."""
        valid: Bools = self.in_ball & self.in_box
        return valid


@dataclass(frozen=True)
class CallDifference:
    """How a model's answers to the same images differ inside and outside an attack."""

    logits: float = 0.0
    """Largest difference of the median image, in standard deviations of the logits."""
    cosine: float = 1.0
    """Between the gradients."""
    slopes: float = 1.0
    """Cosine between the attack's gradients and finite differences of the outputs outside."""


@dataclass(frozen=True)
class UnitResult:
    """The stored result of a unit: verdicts, evidence and cost."""

    verdicts: Verdicts
    evidence: NDArray[np.float32]
    """Adversarial images of the broken examples, shape (number broken, C, H, W), in [0, 1]."""
    forwards: int
    backwards: int
    seconds: float
    survivors: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Indices of a few robust examples whose images are kept, to be judged again at the end of the run."""
    survivor_images: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    """Their images, shape (number kept, C, H, W)."""
    difference: CallDifference = field(default_factory=CallDifference)
    """Between two calls of the attack and the judged model."""

    def without_images(self) -> UnitResult:
        """The result without the images of broken and robust examples."""
        return replace(self, evidence=self.evidence[:0], survivor_images=self.survivor_images[:0])


@dataclass(frozen=True)
class Slice:
    """Identifies the evaluated images."""

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
