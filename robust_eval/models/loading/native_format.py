"""The checkpoint format of this project: weights with everything that is needed to evaluate them.

A file is one dict of plain values and tensors, which the weights-only reader can read; in safetensors
files the description is JSON in the header.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import Field, ValidationError
from torch import nn

from robust_eval.core import plain_values, strict_json
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, create_folder, report_write_errors
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.models.loading import recorded_answers
from robust_eval.results.schema import ArchitectureRecord, NormalisationRecord

FORMAT_VERSION = 1
_HEADER_KEY = "robust_eval"
TRAINED_ON = "trained_on"
"""Key in ``provenance`` of the sketch of the training images; not copied to results."""


class TrainingThreatRecord(ClosedModel):
    """The threat model of training; unlike in results, without epsilon as a number."""

    norm: Literal["Linf", "L2"]
    eps: str


class Header(ClosedModel):
    """The stored description of a checkpoint: everything except the weights."""

    format_version: int
    architecture: ArchitectureRecord
    normalisation: NormalisationRecord
    classes: int = Field(ge=2)
    channels: int = Field(ge=1)
    image_size: tuple[int, int]
    dataset: str | None = None
    threat: TrainingThreatRecord | None = None
    recipe: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    answers: recorded_answers.Answers | None = None
    """None in files of earlier versions, and for networks whose logits cannot be stored."""

    def trained_with(self) -> dict[str, Any] | None:
        """Recipe, threat model, metrics and provenance, in the form that results record."""
        fields = {
            "recipe": self.recipe,
            "threat": None if self.threat is None else self.threat.model_dump(),
            "metrics": self.metrics,
            "provenance": {k: v for k, v in (self.provenance or {}).items() if k != TRAINED_ON},
        }
        return {key: value for key, value in fields.items() if value} or None

    def trained_on(self) -> Mapping[str, Any] | None:
        """The sketch of the training images, if the file has one."""
        sketch = (self.provenance or {}).get(TRAINED_ON)
        return sketch if isinstance(sketch, Mapping) else None


@dataclass(frozen=True, kw_only=True)
class CheckpointDescription:
    """What :func:`save` records besides the weights; mappings contain plain JSON values."""

    architecture: Architecture
    normalisation: Normalisation
    classes: int
    channels: int
    image_size: tuple[int, int]
    """(height, width)."""
    dataset: str | None = None
    threat: ThreatModel | None = None
    recipe: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None

    def header(self) -> Header:
        """The stored form."""
        architecture, normalisation, threat = self.architecture, self.normalisation, self.threat
        return Header(
            format_version=FORMAT_VERSION,
            architecture=ArchitectureRecord(id=architecture.id, arguments=dict(architecture.arguments)),
            normalisation=NormalisationRecord(
                name=normalisation.name, mean=normalisation.mean, std=normalisation.std
            ),
            classes=self.classes,
            channels=self.channels,
            image_size=self.image_size,
            dataset=self.dataset,
            threat=None if threat is None else TrainingThreatRecord(norm=threat.norm, eps=threat.eps_text),
            recipe=None if self.recipe is None else dict(self.recipe),
            metrics=None if self.metrics is None else dict(self.metrics),
            provenance=None if self.provenance is None else dict(self.provenance),
        )


def save(path: Path, network: nn.Module, description: CheckpointDescription) -> None:
    """Write a checkpoint atomically; a path that ends in ``.safetensors`` gets that format.

    ``network`` maps normalised input to logits (not a :class:`Normalised` model).

    Raises:
        UserError: if the file cannot be written.
    """
    answers = recorded_answers.measure(
        network, description.normalisation, description.channels, description.image_size
    )
    header = description.header().model_copy(update={"answers": answers}).model_dump(mode="json")
    state = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(state, metadata={_HEADER_KEY: json.dumps(header)})
    else:
        # Written to memory first: the writer of torch reports a full disk as an internal error.
        buffer = io.BytesIO()
        torch.save({**header, "state_dict": state}, buffer)
        content = buffer.getvalue()
    with report_write_errors(path.parent):
        create_folder(path.parent)
        with atomic(path) as file:
            file.write(content)


def header_of(value: Any, metadata: Mapping[str, str], name: str) -> Header | None:
    """The description of a file in this format; None for a file of another format.

    Raises:
        UserError: if the description is damaged or of a newer version.
    """
    if _HEADER_KEY in metadata:
        raw = strict_json.loads(metadata[_HEADER_KEY], f"The description in {name}")
    elif isinstance(value, Mapping) and {"format_version", "state_dict", "architecture"} <= value.keys():
        raw = {key: entry for key, entry in value.items() if key != "state_dict"}
        if (problem := plain_values.problem(raw)) is not None:
            raise UserError(f"The description in {name} {problem}. Save it again.")
    else:
        return None
    version = raw.get("format_version") if isinstance(raw, Mapping) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{name} has checkpoint format {version}; this robust-eval reads up to {FORMAT_VERSION}. "
            "Upgrade robust-eval."
        )
    try:
        header = Header.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "description"
        raise UserError(
            f"{name} has a damaged description ({where}: {first['msg']}). Save it again."
        ) from None
    if header.threat is not None:
        try:
            parse_threat(header.threat.norm, header.threat.eps)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return header
