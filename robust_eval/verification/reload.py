"""Load a row's checkpoint as the run did: what the user named there is named again, the rest detected again.

What the run detected raises flags (:mod:`robust_eval.models.loading.unrecorded`), what the user named does
not. So nothing may be named that was not named in the run: flags removed from the row would stay removed.
"""

from __future__ import annotations

import json

import torch

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models import architectures
from robust_eval.models.loading import checkpoint, network_sources, unrecorded, variants
from robust_eval.models.loading.load_task import LoadedModel
from robust_eval.results import CheckpointRecord, FlagRecord, flags
from robust_eval.verification.options import VerifyOptions

_DETECTED = ("foreign", "safetensors")
"""Formats of files that do not record everything."""


def reload(
    source: str,
    recorded: CheckpointRecord,
    options: VerifyOptions,
    images: ImageSet,
    device: torch.device,
) -> LoadedModel:
    """The checkpoint ``source``, with all images of the dataset.

    Raises:
        UserError: if the file cannot be loaded.
    """
    return checkpoint.load(
        source,
        images=images,
        arch=_architecture(recorded, options.arch),
        normalisation=_normalisation(recorded, options.normalisation),
        device=device,
    )


def flags_of(loaded: LoadedModel) -> tuple[FlagRecord, ...]:
    """The flags of loading; unlike in a run, their figures contain no attack."""
    return flags.records(loaded.doubts.raised)


def contradiction(recorded: CheckpointRecord, options: VerifyOptions) -> str:
    """Which option names something that was not named in the run, by the record; '' if none does."""
    if recorded.format not in _DETECTED:
        return ""
    if options.normalisation is not None and not unrecorded.was_requested(recorded.notes):
        return "by the record, the run had no --normalisation: verify without it"
    if options.arch is not None and not network_sources.is_external(options.arch):
        named = variants.requested(recorded.notes)
        for name in architectures.split_arguments(options.arch)[1]:
            if name not in named:
                return f"by the record, the run had no --arch ID?{name}=VALUE: verify without it"
    return ""


def _normalisation(recorded: CheckpointRecord, given: str | None) -> str | None:
    named = unrecorded.was_requested(recorded.notes)
    return given or (recorded.normalisation.name if named else None)


def _architecture(recorded: CheckpointRecord, given: str | None) -> str | None:
    arch_id = recorded.architecture.id
    arguments = recorded.architecture.arguments
    named = variants.requested(recorded.notes)
    if network_sources.is_library(arch_id):
        if recorded.format not in _DETECTED:
            return given  # the file itself names the network
        named = tuple(arguments)
    elif given is None and network_sources.is_external(arch_id):
        # Only code that the user names is run.
        raise UserError(f"{recorded.name} was built by {arch_id}: give that code with --arch PATH/{arch_id}.")
    if given is not None or not (named or network_sources.is_library(arch_id)):
        return given
    return f"{arch_id}?" + "&".join(f"{name}={json.dumps(arguments.get(name))}" for name in named)
