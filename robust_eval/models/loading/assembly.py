"""The parts that every way of loading shares: the question about what is open, and the loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, CheckpointRef, Normalisation
from robust_eval.models.architectures import Arguments
from robust_eval.models.loading import native_format, recorded_answers, unrecorded
from robust_eval.models.loading.load_task import Doubts, LoadedModel, LoadTask
from robust_eval.models.normalisation import Normalised, check_normalisation, parse_normalisation


def native_result(
    task: LoadTask,
    header: native_format.Header,
    architecture: Architecture,
    network: nn.Module,
    notes: tuple[str, ...],
) -> LoadedModel:
    """The model of a file in the format of this project."""
    recorded = Normalisation(**header.normalisation.model_dump())
    try:
        chosen = check_normalisation(recorded, header.channels)
    except UserError as error:
        raise UserError(f"{task.name}: {error}") from None
    if task.normalisation is not None:
        chosen = parse_normalisation(task.normalisation, header.channels)
        notes = (
            *notes,
            f"input normalisation '{chosen.name}' as requested; the file records '{recorded.name}'",
        )
    kind = "robust-eval" if task.contents.format == "torch" else "safetensors"
    claims = (header.dataset, header.trained_with(), notes)
    ref = CheckpointRef(task.title, task.contents.sha256, architecture, header.classes, chosen, kind, *claims)
    model = in_eval_mode(network, chosen, task.device)
    return LoadedModel(model, ref, header.trained_on(), _other_answers(task, header, network, recorded))


def _other_answers(
    task: LoadTask, header: native_format.Header, network: nn.Module, normalisation: Normalisation
) -> Doubts:
    """Doubts about a network that answers otherwise than the one whose weights were saved."""
    if header.answers is None or task.known is not None:
        return Doubts()
    difference = recorded_answers.difference(
        network, normalisation, header.channels, header.image_size, header.answers
    )
    if difference <= recorded_answers.TOLERANCE:
        return Doubts()
    figure = f"logits of random images differ from those in the file by {difference:.1e} standard deviations"
    return Doubts(findings=((unrecorded.UNCERTAIN, figure),))


def question_for(
    task: LoadTask,
    build: Callable[[Arguments], nn.Module],
    default: Arguments,
    channels: int,
    recorded: Normalisation | None,
) -> unrecorded.Question:
    """What a foreign file does not record."""
    return unrecorded.Question(
        name=task.name,
        build=build,
        default=default,
        variants=(),
        channels=channels,
        recorded=recorded or (task.fallback if task.images is None else None),
        requested=task.normalisation,
        images=task.images,
        device=task.device,
        known=task.known,
    )


def foreign_result(
    task: LoadTask,
    architecture: Architecture,
    answer: unrecorded.Answer,
    classes: int,
    facts: Mapping[str, Any],
    notes: tuple[str, ...],
) -> LoadedModel:
    """The model of a foreign file."""
    kind = "safetensors" if task.contents.format == "safetensors" else "foreign"
    ref = CheckpointRef(
        task.title,
        task.contents.sha256,
        architecture,
        classes,
        answer.normalisation,
        kind,
        trained_with={"file_says": dict(facts)} if facts else None,
        notes=notes,
    )
    model = in_eval_mode(answer.network, answer.normalisation, task.device)
    return LoadedModel(model, ref, doubts=answer.doubts)


def in_eval_mode(network: nn.Module, normalisation: Normalisation, device: torch.device) -> Normalised:
    """The model from [0, 1] pixels to logits."""
    return Normalised(network, normalisation).to(device).eval()
