"""Load a checkpoint of any supported origin. Every model is loaded by this module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, CheckpointRef, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.architectures import Inferred
from robust_eval.models.loading import (
    architecture_fit,
    external_networks,
    file_reader,
    foreign_weights,
    library_checkpoints,
    library_guess,
    native_format,
    network_sources,
    one_logit,
    robustbench_zoo,
    unrecorded,
    variants,
)
from robust_eval.models.loading.assembly import foreign_result, in_eval_mode, native_result, question_for
from robust_eval.models.loading.file_head import is_file, split_source
from robust_eval.models.loading.load_task import LoadedModel, LoadTask
from robust_eval.models.loading.native_format import CheckpointDescription, save
from robust_eval.models.loading.state_dict_diff import NoFitError, compare, completed, shapes_of

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
    """Load a checkpoint file (``FILE`` or ``FILE#part``) or a model of a library (``timm:NAME``).

    ``images``: the evaluated images. Their classes, channels and size must fit the network, and the input
    normalisation is determined on them if the file does not record it. ``arch`` (an id, or a network of
    :mod:`robust_eval.models.loading.network_sources`) and ``normalisation`` override what is detected;
    ``fallback`` is the normalisation if there are no ``images`` and the file records none. ``known``: how the
    same file was read before; nothing is detected then. Every tensor of file and network must match.

    Raises:
        UserError: if the file cannot be used; the message gives the reason.
    """
    device = torch.device(device)
    if not is_file(source):
        if arch is not None or normalisation is not None:
            raise UserError(
                f"{source} has its own architecture and normalisation. Omit --arch and --normalisation."
            )
        library = robustbench_zoo if source.startswith("robustbench:") else library_checkpoints
        network, ref = library.load(source, images, device)
        return LoadedModel(in_eval_mode(network, ref.normalisation, device), ref)
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
    weights = replace(weights, notes=(*task.contents.notes, *weights.notes))
    single = weights
    asked = one_logit.asked(arch, {} if known is None else known.architecture.arguments)
    if asked:
        weights = one_logit.two_logits(weights, task.name)
    if arch is not None and network_sources.is_external(arch):
        try:
            return external_networks.load(task, arch, weights)
        except NoFitError:
            if not asked:
                raise
        # Code of the user may build the one logit itself.
        return external_networks.load(task, arch, single)
    return _load_foreign(task, weights)


def _load_native(task: LoadTask, header: native_format.Header) -> LoadedModel:
    """Load a file in the format of this project, which describes the model completely."""
    value = task.contents.value
    state_dict = value["state_dict"] if task.contents.format == "torch" else value
    weights = foreign_weights.weights(state_dict, task.name)
    architecture = Architecture(header.architecture.id, header.architecture.arguments)
    if task.arch is not None and network_sources.is_external(task.arch):
        return external_networks.load(task, task.arch, weights, header)
    if network_sources.is_library(architecture.id):
        return external_networks.load(task, architecture.id, weights, header)
    if network_sources.is_external(architecture.id):
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
    return native_result(task, header, architecture, network, ())


def _load_foreign(task: LoadTask, weights: foreign_weights.Weights) -> LoadedModel:
    """Load foreign weights: architecture from tensor names and shapes, the rest from the images."""
    arch_id, asked = variants.split(task.arch)
    size = None if task.images is None else task.images.image_size
    try:
        fit = architecture_fit.fit(weights.state, task.name, arch=arch_id, image_size=size)
    except NoFitError:
        found = library_guess.load(task, weights) if arch_id is None else None
        if found is None:
            raise
        return found
    inferred = fit.inferred
    one_logit.refuse_single(inferred.classes, task.name, inferred.architecture.id)
    _check_images(task, inferred)
    known = variants.Variants(task.name, inferred, fit.state, asked, size, task.device)
    question = question_for(task, known.build, known.default, inferred.channels, weights.normalisation)
    answer = unrecorded.choose(replace(question, variants=known.others))
    if known.untold_head:
        answer = answer.with_finding(unrecorded.UNCERTAIN, known.untold_head)
    architecture = known.architecture(answer.arguments)
    notes = (*weights.notes, *fit.notes, *known.notes, *answer.notes)
    return foreign_result(task, architecture, answer, inferred.classes, weights.facts, notes)


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
