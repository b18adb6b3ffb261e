"""Request: everything that the verdicts depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import CheckpointRef, Slice, Suite

CLEAN = "clean"
"""Id of the clean column."""


@dataclass(frozen=True)
class Request:
    """Everything that the verdicts depend on. Two equal requests give the same verdicts."""

    checkpoint: CheckpointRef
    data: Slice
    threat: ThreatModel
    suite: Suite
    batch_size: int
    """Examples per unit, and so per batch of every attack."""
    seed: int
    libraries: tuple[tuple[str, str], ...]
    """(attack family, library and version) for the families of the suite."""
    precision: str = "float32"
    """Precision of the attacks that support it; verdicts are always computed in float32."""
    split: int = 1
    """Units of small stages and long attacks may have batch_size / split examples; 1: never smaller."""
    long_split: int | None = None
    """The same for long attacks; None: ``split``."""
    shards: Annotated[int, Field(alias="blocks")] = 1
    """Contiguous parts of the examples that share no unit, so that each can be run separately.

    ``blocks`` in files.
    """

    def library(self, family: str) -> str:
        """Library and version of an attack family."""
        return dict(self.libraries)[family]

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run folder to be continued, as values for JSON."""
        # Omitted where they have no effect, so that results of earlier versions have the same key.
        sizes = {"split": self.split, "long_split": self.long_split, "blocks": self.shards}
        cut = {name: value for name, value in sizes.items() if value not in (1, None)}
        return {
            "checkpoint": self.checkpoint.identity(),
            "data": asdict(self.data),
            "threat": str(self.threat),
            "suite": asdict(self.suite),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "libraries": dict(self.libraries),
            "precision": self.precision,
            **cut,
        }

    @property
    def key(self) -> str:
        """SHA-256 of :meth:`identity`; the digest of the request in results and evidence."""
        return digest(self.identity())


def digest(value: Any) -> str:
    """SHA-256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
