"""A checkpoint of any origin, loaded: the only door through which models come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, CheckpointRef, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.architectures import Inferred
from robust_eval.models.loading import (
    architecture_fit,
    file_reader,
    foreign_weights,
    native_format,
    normalisation_choice,
    normalisation_probe,
    python_architecture,
    robustbench_zoo,
)
from robust_eval.models.loading.native_format import save
from robust_eval.models.loading.state_dict_diff import compare, completed, shapes_of
from robust_eval.models.normalisation import NONE, Normalised, check_normalisation, parse_normalisation

__all__ = ["LoadedModel", "load", "save", "split_source"]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be judged."""

    model: Normalised
    """[0, 1] pixels to logits: eval mode, float32, on the device."""
    ref: CheckpointRef
    trained_on: Mapping[str, Any] | None = None
    """A sketch of the training images, where the file has one (:mod:`robust_eval.core.image_sketch`)."""

    @property
    def network(self) -> nn.Module:
        """The network alone, from normalised input."""
        return self.model.network


@dataclass(frozen=True)
class _Job:
    """What the caller asked for, and the file's contents."""

    name: str
    contents: file_reader.Contents
    part: str | None
    """Which of several networks in the file."""
    images: ImageSet | None
    arch: str | None
    normalisation: str | None
    device: torch.device
    fallback: Normalisation | None = None

    @property
    def title(self) -> str:
        return self.name if self.part is None else f"{self.name}#{self.part}"


def load(
    source: str,
    *,
    images: ImageSet | None,
    arch: str | None = None,
    normalisation: str | None = None,
    device: torch.device | str = "cpu",
    fallback: Normalisation | None = None,
) -> LoadedModel:
    """A checkpoint file (``FILE`` or ``FILE#part``) or ``robustbench:MODEL_ID[@threat]``.

    ``images``: the slice to judge. It tells the input normalisation of files that do not record one, and
    is compared with the network's classes, channels and image size. ``arch`` (an id or
    ``path.py:function``) and ``normalisation`` override what is detected; ``fallback`` is the normalisation
    where there are no ``images`` and the file says nothing. Every tensor must match; a UserError says why a
    file cannot be used.
    """
    place = torch.device(device)
    if source.startswith("robustbench:"):
        if arch is not None or normalisation is not None:
            raise UserError("robustbench: models bring their own --arch and --normalisation; leave both out.")
        network, ref = robustbench_zoo.load(source, images, place)
        return LoadedModel(_finished(network, NONE, place), ref)
    path, part = split_source(source)
    job = _Job(path.name, file_reader.read(path), part, images, arch, normalisation, place, fallback)
    header = native_format.header_of(job.contents.value, job.contents.metadata, job.name)
    if header is not None:
        if part is not None:
            raise UserError(f"{job.name} holds one network: leave '#{part}' out.")
        if broken := file_reader.damaged_part(path):
            raise UserError(f"{path} is damaged: the checksum of {broken} does not hold. Copy it again.")
        return _load_own(job, header)
    weights = foreign_weights.weights(job.contents.value, job.name, part)
    if arch is not None and python_architecture.is_python_file(arch):
        return _load_python(job, arch, weights)
    return _load_foreign(job, weights)


def split_source(source: str) -> tuple[Path, str | None]:
    """``FILE#part``, unless a file has that very name."""
    path = Path(source).expanduser()
    if path.exists() or "#" not in source:
        return path, None
    file, _, part = source.rpartition("#")
    return Path(file).expanduser(), part


def _load_own(job: _Job, header: native_format.Header) -> LoadedModel:
    """A file that says everything itself."""
    value = job.contents.value
    found = value["state_dict"] if job.contents.format == "torch" else value
    weights = foreign_weights.weights(found, job.name)
    architecture = Architecture(header.architecture.id, header.architecture.arguments)
    if job.arch is not None and python_architecture.is_python_file(job.arch):
        return _load_python(job, job.arch, weights, header)
    if python_architecture.is_python_file(architecture.id):
        raise UserError(
            f"{job.name} was trained with a network of your own. Name its code: --arch {architecture.id}."
        )
    if job.arch not in (None, architecture.id):
        raise UserError(f"{job.name} is a {architecture.id}, not a {job.arch}. Leave --arch out.")
    sizes: dict[str, Any] = {"classes": header.classes, "channels": header.channels}
    try:
        network = architecture_fit.meta_network(architecture, image_size=header.image_size, **sizes)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{job.name} describes a {architecture.id} that cannot be built: {error}.") from None
    expected = network.state_dict()
    difference = compare(shapes_of(expected), shapes_of(weights.state))
    if not difference.exact:
        raise UserError(f"{job.name} is not the {architecture.id} it says it is: {difference}.")
    network.load_state_dict(completed(weights.state, expected), assign=True)
    _check_images(job, Inferred(architecture, image_size=header.image_size, **sizes))
    return _own_result(job, header, architecture, network, ())


def _own_result(
    job: _Job,
    header: native_format.Header,
    architecture: Architecture,
    network: nn.Module,
    notes: tuple[str, ...],
) -> LoadedModel:
    recorded = Normalisation(**header.normalisation.model_dump())
    chosen = check_normalisation(recorded, header.channels)
    if job.normalisation is not None:
        chosen = parse_normalisation(job.normalisation, header.channels)
        notes = (*notes, f"input normalisation '{chosen.name}' as asked; the file records '{recorded.name}'")
    kind = "robust-eval" if job.contents.format == "torch" else "safetensors"
    said = (header.dataset, header.trained_with(), notes)
    ref = CheckpointRef(job.title, job.contents.sha256, architecture, header.classes, chosen, kind, *said)
    return LoadedModel(_finished(network, chosen, job.device), ref, header.trained_on())


def _load_foreign(job: _Job, weights: foreign_weights.Weights) -> LoadedModel:
    """Other people's weights: architecture from names and shapes, normalisation from accuracy."""
    size = None if job.images is None else job.images.image_size
    fit = architecture_fit.fit(weights.state, job.name, arch=job.arch, image_size=size)
    inferred = fit.inferred
    _check_images(job, inferred)
    architectures = [inferred.architecture]
    architectures += [architecture_fit.with_arguments(inferred, variant) for variant in inferred.variants]
    networks = []
    for architecture in architectures:
        network = architecture_fit.meta_network_of(
            Inferred(architecture, inferred.classes, inferred.channels, inferred.image_size), size
        )
        network.load_state_dict(fit.state, assign=True)
        networks.append((architecture, network.to(job.device).eval()))
    chosen, why = _choose(job, networks, inferred.channels, weights.normalisation)
    notes = (*weights.notes, *fit.notes, *why)
    return _foreign_result(job, chosen, inferred.classes, weights.facts, notes)


def _load_python(
    job: _Job, arch: str, weights: foreign_weights.Weights, header: native_format.Header | None = None
) -> LoadedModel:
    """The user's own network code. What wraps the weights may belong to it: names as stored come first."""
    images = job.images
    offered: dict[str, Any] = {}
    if told := header or images:
        offered = {"classes": told.classes, "num_classes": told.classes, "channels": told.channels}
        offered |= {"image_size": told.image_size}
    network = python_architecture.build(arch, offered)
    readings = (weights.stored, weights.state)
    which, prefix = python_architecture.load_into(network, readings, job.name, arch)
    notes = weights.notes if which else ()
    notes += (f"removed '{prefix}' from the names",) if prefix else ()
    network = network.float().to(job.device).eval()
    architecture = Architecture(
        python_architecture.portable(arch), {"code_sha256": python_architecture.sha256(arch)}
    )
    if header is not None:
        return _own_result(job, header, architecture, network, notes)
    if images is None:
        raise UserError(f"Which images? {job.name} does not say what it was trained on: add --data.")
    logits = python_architecture.first_logits(network, images.take(1).tensors()[0].to(job.device), arch)
    if logits.dim() != 2 or not images.fits(logits.shape[1]):
        raise UserError(
            f"{arch} gives outputs of shape {tuple(logits.shape[1:])}, but {images.name} has "
            f"{images.classes} classes."
        )
    # Where the names as stored fit, the code keeps the normalisation's tensors, and so applies them itself.
    recorded = weights.normalisation if which else None
    chosen, why = _choose(job, [(architecture, network)], images.channels, recorded)
    return _foreign_result(job, chosen, logits.shape[1], weights.facts, (*notes, *why))


def _choose(
    job: _Job, networks: list[tuple[Architecture, nn.Module]], channels: int, recorded: Normalisation | None
) -> tuple[normalisation_probe.Candidate, tuple[str, ...]]:
    return normalisation_choice.choose(
        networks,
        job.name,
        channels=channels,
        recorded=recorded or (job.fallback if job.images is None else None),
        asked=job.normalisation,
        images=job.images,
        device=job.device,
    )


def _foreign_result(
    job: _Job,
    chosen: normalisation_probe.Candidate,
    classes: int,
    facts: Mapping[str, Any],
    notes: tuple[str, ...],
) -> LoadedModel:
    kind = "safetensors" if job.contents.format == "safetensors" else "foreign"
    ref = CheckpointRef(
        job.title,
        job.contents.sha256,
        chosen.architecture,
        classes,
        chosen.normalisation,
        kind,
        trained_with={"file_says": dict(facts)} if facts else None,
        notes=notes,
    )
    return LoadedModel(_finished(chosen.network, chosen.normalisation, job.device), ref)


def _check_images(job: _Job, inferred: Inferred) -> None:
    images = job.images
    if images is not None:
        images.refuse_misfit(inferred.classes, job.name)
        architecture_fit.check_against_images(
            inferred,
            job.name,
            channels=images.channels,
            image_size=images.image_size,
            data=images.name,
        )


def _finished(network: nn.Module, normalisation: Normalisation, device: torch.device) -> Normalised:
    return Normalised(network, normalisation).to(device).eval()
