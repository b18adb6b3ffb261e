"""Initialise a network from a checkpoint, with its last layer or a new one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Normalisation
from robust_eval.models.loading import checkpoint, file_head
from robust_eval.models.normalisation import equivalent


def fingerprint(source: str) -> str:
    """sha256 of the file (or the name of a library's model): a resumed run must use the same initial weights.

    Raises UserError if the file cannot be read.
    """
    if not file_head.is_file(source):
        return source
    return file_head.sha256(Path(source).expanduser())


def load_into(
    network: nn.Module, source: str, *, fresh_head: bool, architecture: str, normalisation: Normalisation
) -> None:
    """Copy the checkpoint's tensors into ``network``; with ``fresh_head`` all but the last linear layer's.

    A file without a normalisation is assumed to use that of this run. Raises UserError if architecture,
    number of classes, image size or normalisation differ.
    """
    loaded = checkpoint.load(source, images=None, device=torch.device("cpu"), fallback=normalisation)
    if loaded.ref.architecture.id == "ensemble":
        raise UserError(
            f"--init {source} is an ensemble: start from one of its networks, such as snapshot-1.pt."
        )
    found = loaded.ref.normalisation
    if not equivalent(found, normalisation):
        raise UserError(
            f"--init {source} takes inputs normalised by {found.name}, this run by {normalisation.name}: "
            f"add --set normalisation={found.name}."
        )
    source_state, state = loaded.network.state_dict(), network.state_dict()
    head = last_layer(network)
    skipped = {f"{head}.weight", f"{head}.bias"} if fresh_head else set()
    for name in sorted(state.keys() | source_state.keys()):
        ours, theirs = state.get(name), source_state.get(name)
        if name in skipped:
            continue
        if ours is None or theirs is None:
            raise UserError(
                f"--init {source} is {loaded.ref.architecture.id}, this run trains {architecture} ({name} is "
                f"only in {'the checkpoint' if ours is None else 'the network'}): choose --arch "
                f"{loaded.ref.architecture.id}."
            )
        if ours.shape != theirs.shape:
            arguments = str(dict(loaded.ref.architecture.arguments) or "its defaults")
            raise UserError(
                _shape_mismatch(source, name, head, tuple(theirs.shape), tuple(ours.shape), arguments)
            )
        state[name] = theirs
    network.load_state_dict(state)


def last_layer(network: nn.Module) -> str:
    """Name of the last linear layer (the classifier). Raises UserError if there is none."""
    names: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise UserError("This architecture has no linear layer to replace: set training.fresh_head=false.")
    return names[-1]


def _shape_mismatch(
    source: str, name: str, head: str, theirs: tuple[int, ...], ours: tuple[int, ...], arguments: str
) -> str:
    if name.startswith(f"{head}."):
        return (
            f"--init {source} has {theirs[0]} classes, the data {ours[0]}: add --set "
            "training.fresh_head=true for a new last layer (the recipe pretraining does)."
        )
    return (
        f"--init {source} does not fit: {name} has shape {list(theirs)} in the checkpoint and {list(ours)} "
        "in this run. Pre-train on images of this size and channels, with the same architecture_arguments "
        f"(of the checkpoint: {arguments})."
    )
