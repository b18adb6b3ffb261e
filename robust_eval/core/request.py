"""TODO."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import CheckpointRef, Slice, Suite

CLEAN = "clean"


@dataclass(frozen=True)
class Request:
    """Everything a verdict depends on. Two equal requests give the same result."""

    checkpoint: CheckpointRef
    data: Slice
    threat: ThreatModel
    suite: Suite
    batch_size: int
    """Examples per work unit, and so per batch of every attack."""
    seed: int
    libraries: tuple[tuple[str, str], ...]
    """(attack family, library and version) for the families of the suite."""
    precision: str = "float32"
    """Arithmetic of the search, where the attack bears it; the judge is always float32."""
    split: int = 1
    """Small waves and long attacks are cut finer, down to batch_size / split examples; 1: never."""
    shards: Annotated[int, Field(alias="blocks")] = 1
    """Contiguous parts of the examples that share no unit, so that each can be done on its own."""

    def library(self, family: str) -> str:
        return dict(self.libraries)[family]

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run folder to be continued, as JSON-able values."""
        # Left out where they change nothing, so that older rows keep their key.
        sizes = {"split": self.split, "blocks": self.shards}
        cut = {name: value for name, value in sizes.items() if value != 1}
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
        return digest(self.identity())


def digest(value: Any) -> str:
    """SHA-256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
