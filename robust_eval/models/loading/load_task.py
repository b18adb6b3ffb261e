"""Input and output of checkpoint loading: the file with its options, and the loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from robust_eval.core.types import CheckpointRef, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.loading import file_reader
from robust_eval.models.normalisation import Normalised
from robust_eval.results.flags import Finding

NORMALISATION_UNCERTAIN = "normalisation-uncertain"


@dataclass(frozen=True)
class Rival:
    """An input normalisation that a network may have, with its clean accuracy."""

    normalisation: Normalisation
    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """Fraction of the images that are classified correctly."""
        return self.correct / max(self.n, 1)

    def __str__(self) -> str:
        return f"{self.normalisation.name} {100 * self.accuracy:.1f}% of {self.n}"


@dataclass(frozen=True)
class Doubts:
    """What a file leaves open about the function that it was trained as."""

    findings: tuple[Finding, ...] = ()
    """Flags with their figures."""
    rivals: tuple[Rival, ...] = ()
    """Two or more plausible normalisations, the chosen one first; empty if it is known."""

    @property
    def raised(self) -> tuple[Finding, ...]:
        """All flags, with the clean accuracies of the rivals."""
        if not self.rivals:
            return self.findings
        return (
            *self.findings,
            (NORMALISATION_UNCERTAIN, f"clean accuracy: {', '.join(map(str, self.rivals))}"),
        )


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with the identification of its checkpoint."""

    model: Normalised
    """From [0, 1] pixels to logits; in eval mode, float32, on the device."""
    ref: CheckpointRef
    trained_on: Mapping[str, Any] | None = None
    """A sketch of the training images (:mod:`robust_eval.core.image_sketch`), if the file has one."""
    doubts: Doubts = field(default_factory=Doubts)

    @property
    def network(self) -> nn.Module:
        """The network without normalisation: from normalised input to logits."""
        return self.model.network


@dataclass(frozen=True)
class LoadTask:
    """The arguments of :func:`load`, and the contents of the file."""

    name: str
    contents: file_reader.Contents
    part: str | None
    """The name of one of several networks in the file."""
    images: ImageSet | None
    arch: str | None
    normalisation: str | None
    device: torch.device
    fallback: Normalisation | None = None
    known: CheckpointRef | None = None

    @property
    def title(self) -> str:
        """The file name, with ``#part`` if a part was chosen."""
        return self.name if self.part is None else f"{self.name}#{self.part}"
