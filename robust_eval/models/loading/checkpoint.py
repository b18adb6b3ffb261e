"""Load a checkpoint of any supported origin. Every model is loaded by this module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, CheckpointRef, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.architectures import Arguments, Inferred
from robust_eval.models.loading import (
    architecture_fit,
    file_reader,
    foreign_weights,
    native_format,
    python_architecture,
    robustbench_zoo,
    unrecorded,
    variants,
)
from robust_eval.models.loading.file_head import split_source
from robust_eval.models.loading.load_task import LoadedModel, LoadTask
from robust_eval.models.loading.native_format import CheckpointDescription, save
from robust_eval.models.loading.recorded_normalisation import description_notes, without_descriptions
from robust_eval.models.loading.state_dict_diff import compare, completed, shapes_of
from robust_eval.models.normalisation import NONE, Normalised, check_normalisation, parse_normalisation

__all__ = ["CheckpointDescription", "LoadedModel", "load", "save"]


def load(
    source: str,
    *,
    images: ImageSet | None,
    arch: str | None = None,
    normalisation: str | None = None,
    device: torch.device | str = "cpu",
    fallback: Normalisation | None = None,
    known: CheckpointRef | None = None,
) -> LoadedModel:
    """Load a checkpoint file (``FILE`` or ``FILE#part``) or ``robustbench:MODEL_ID[@threat]``.

    ``images``: the evaluated images. Their classes, channels and size must fit the network, and the input
    normalisation is determined on them if the file does not record it. ``arch`` (an id or
    ``path.py:function``) and ``normalisation`` override what is detected; ``fallback`` is the normalisation
    if there are no ``images`` and the file records none. ``known``: how the same file was read before;
    nothing is detected then. Every tensor of file and network must match.

    Raises:
        UserError: if the file cannot be used; the message gives the reason.
    """
    device = torch.device(device)
    if source.startswith("robustbench:"):
        if arch is not None or normalisation is not None:
            raise UserError(
                "robustbench: models have their own architecture and normalisation. "
                "Omit --arch and --normalisation."
            )
        network, ref = robustbench_zoo.load(source, images, device)
        return LoadedModel(_in_eval_mode(network, NONE, device), ref)
    path, part = split_source(source)
    task = LoadTask(
        path.name, file_reader.read(path), part, images, arch, normalisation, device, fallback, known
    )
    header = native_format.header_of(task.contents.value, task.contents.metadata, task.name)
    if header is not None:
        if part is not None:
            raise UserError(f"{task.name} contains one network: omit '#{part}'.")
        if damaged := file_reader.damaged_part(path):
            raise UserError(f"{path} is damaged: the checksum of {damaged} is wrong. Copy it again.")
        return _load_native(task, header)
    weights = foreign_weights.weights(task.contents.value, task.name, part)
    if arch is not None and python_architecture.is_python_file(arch):
        return _load_python(task, arch, weights)
    return _load_foreign(task, weights)


def _load_native(task: LoadTask, header: native_format.Header) -> LoadedModel:
    """Load a file in the format of this project, which describes the model completely."""
    value = task.contents.value
    state_dict = value["state_dict"] if task.contents.format == "torch" else value
    weights = foreign_weights.weights(state_dict, task.name)
    architecture = Architecture(header.architecture.id, header.architecture.arguments)
    if task.arch is not None and python_architecture.is_python_file(task.arch):
        return _load_python(task, task.arch, weights, header)
    if python_architecture.is_python_file(architecture.id):
        raise UserError(
            f"{task.name} contains a user-defined network. Give its code: --arch {architecture.id}."
        )
    if task.arch not in (None, architecture.id):
        raise UserError(f"{task.name} is a {architecture.id}, not a {task.arch}. Omit --arch.")
    sizes: dict[str, Any] = {"classes": header.classes, "channels": header.channels}
    try:
        network = architecture_fit.meta_network(architecture, image_size=header.image_size, **sizes)
    except UserError:
        raise
    except Exception as error:
        # The arguments come from the file: the code of the network may fail on them in any way.
        raise UserError(f"{task.name} describes {architecture.id}, which cannot be built: {error}.") from None
    expected = network.state_dict()
    difference = compare(shapes_of(expected), shapes_of(weights.state))
    if not difference.exact:
        raise UserError(f"{task.name} does not match its architecture {architecture.id}: {difference}.")
    network.load_state_dict(completed(weights.state, expected, task.name), assign=True)
    _check_images(task, Inferred(architecture, image_size=header.image_size, **sizes))
    return _native_result(task, header, architecture, network, ())


def _native_result(
    task: LoadTask,
    header: native_format.Header,
    architecture: Architecture,
    network: nn.Module,
    notes: tuple[str, ...],
) -> LoadedModel:
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
    return LoadedModel(_in_eval_mode(network, chosen, task.device), ref, header.trained_on())


def _load_foreign(task: LoadTask, weights: foreign_weights.Weights) -> LoadedModel:
    """Load foreign weights: architecture from tensor names and shapes, the rest from the images."""
    arch_id, asked = variants.split(task.arch)
    size = None if task.images is None else task.images.image_size
    fit = architecture_fit.fit(weights.state, task.name, arch=arch_id, image_size=size)
    inferred = fit.inferred
    _check_images(task, inferred)
    known = variants.Variants(task.name, inferred, fit.state, asked, size, task.device)
    question = _question(task, known.build, known.default, inferred.channels, weights.normalisation)
    answer = unrecorded.choose(replace(question, variants=known.others))
    if known.untold_head:
        answer = answer.with_finding(unrecorded.UNCERTAIN, known.untold_head)
    architecture = known.architecture(answer.arguments)
    notes = (*weights.notes, *fit.notes, *known.notes, *answer.notes)
    return _foreign_result(task, architecture, answer, inferred.classes, weights.facts, notes)


def _load_python(
    task: LoadTask, arch: str, weights: foreign_weights.Weights, header: native_format.Header | None = None
) -> LoadedModel:
    """Load weights into a network from user code; tensor names are tried first as stored, then unwrapped."""
    images = task.images
    arguments: dict[str, Any] = {}
    if known := header or images:
        arguments = {"classes": known.classes, "num_classes": known.classes, "channels": known.channels}
        arguments |= {"image_size": known.image_size}
    network = python_architecture.build(arch, arguments)
    plain, left_out = without_descriptions(weights.state)
    states = (weights.stored, weights.state, plain)
    unwrapped, prefix = python_architecture.load_into(network, states, task.name, arch)
    notes = weights.notes if unwrapped else ()
    notes += description_notes(left_out) if states[unwrapped] is plain else ()
    notes += (f"removed '{prefix}' from the names",) if prefix else ()
    network = network.float().to(task.device).eval()
    architecture = Architecture(
        python_architecture.portable(arch), {"code_sha256": python_architecture.sha256(arch)}
    )
    if header is not None:
        return _native_result(task, header, architecture, network, notes)
    if images is None:
        raise UserError(f"{task.name} does not record what it was trained on: add --data.")
    logits = python_architecture.first_logits(network, images.take(1).tensors()[0].to(task.device), arch)
    if logits.dim() != 2 or not images.fits(logits.shape[1]):
        raise UserError(
            f"{arch} gives outputs of shape {tuple(logits.shape[1:])}, but {images.name} has "
            f"{images.classes} classes."
        )
    # If the names fit as stored, the network has the tensors of the normalisation and applies it itself.
    recorded = weights.normalisation if unwrapped or weights.outside else None
    answer = unrecorded.choose(_question(task, lambda _: network, {}, images.channels, recorded))
    notes = (*notes, *answer.notes)
    return _foreign_result(task, architecture, answer, logits.shape[1], weights.facts, notes)


def _question(
    task: LoadTask,
    build: Callable[[Arguments], nn.Module],
    default: Arguments,
    channels: int,
    recorded: Normalisation | None,
) -> unrecorded.Question:
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


def _foreign_result(
    task: LoadTask,
    architecture: Architecture,
    answer: unrecorded.Answer,
    classes: int,
    facts: Mapping[str, Any],
    notes: tuple[str, ...],
) -> LoadedModel:
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
    model = _in_eval_mode(answer.network, answer.normalisation, task.device)
    return LoadedModel(model, ref, doubts=answer.doubts)


def _check_images(task: LoadTask, inferred: Inferred) -> None:
    images = task.images
    if images is not None:
        images.refuse_misfit(inferred.classes, task.name)
        architecture_fit.check_against_images(
            inferred,
            task.name,
            channels=images.channels,
            image_size=images.image_size,
            data=images.name,
        )


def _in_eval_mode(network: nn.Module, normalisation: Normalisation, device: torch.device) -> Normalised:
    return Normalised(network, normalisation).to(device).eval()
