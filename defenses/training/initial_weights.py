"""Start from another checkpoint's weights, with its last layer or a new one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Normalisation
from robust_eval.models.loading import checkpoint


def fingerprint(source: str) -> str:
    """sha256 of the file (a zoo id stands for itself): a resumed run must start from the same one."""
    if source.startswith("robustbench:"):
        return source
    try:
        return hashlib.sha256(Path(source).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"--init {source} cannot be read ({error.strerror}).") from None


def load_into(
    network: nn.Module, source: str, *, fresh_head: bool, architecture: str, normalisation: Normalisation
) -> None:
    """Copy the checkpoint's tensors into ``network``; ``fresh_head``: all but the last linear layer's.

    A file that does not say how its inputs are normalised is taken to be like this run. A UserError says what
    differs: architecture, number of classes, image size or normalisation.
    """
    loaded = checkpoint.load(source, images=None, device=torch.device("cpu"), fallback=normalisation)
    if loaded.ref.architecture.id == "ensemble":
        raise UserError(
            f"--init {source} is an ensemble: start from one of its networks, such as snapshot-1.pt."
        )
    theirs = loaded.ref.normalisation
    if (theirs.mean, theirs.std) != (normalisation.mean, normalisation.std):
        raise UserError(
            f"--init {source} takes inputs normalised by {theirs.name}, this run by {normalisation.name}: "
            f"add --set normalisation={theirs.name}."
        )
    state = loaded.network.state_dict()
    own = network.state_dict()
    head = last_layer(network)
    spared = {f"{head}.weight", f"{head}.bias"} if fresh_head else set()
    for name in sorted(own.keys() | state.keys()):
        ours, other = own.get(name), state.get(name)
        if name in spared:
            continue
        if ours is None or other is None:
            raise UserError(
                f"--init {source} is {loaded.ref.architecture.id}, this run trains {architecture} ({name} is "
                f"in {'the checkpoint' if ours is None else 'the network'} alone): choose --arch "
                f"{loaded.ref.architecture.id}."
            )
        if ours.shape != other.shape:
            there = str(dict(loaded.ref.architecture.arguments) or "its defaults")
            raise UserError(_shapes(source, name, head, tuple(other.shape), tuple(ours.shape), there))
        own[name] = other
    network.load_state_dict(own)


def last_layer(network: nn.Module) -> str:
    """Name of the last linear layer: the classifier."""
    names: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise UserError("This architecture has no linear layer to replace: set training.fresh_head=false.")
    return names[-1]


def _shapes(
    source: str, name: str, head: str, theirs: tuple[int, ...], ours: tuple[int, ...], arguments: str
) -> str:
    if name.startswith(f"{head}."):
        return (
            f"--init {source} has {theirs[0]} classes, the data {ours[0]}: add --set "
            "training.fresh_head=true for a new last layer (the recipe pretraining does)."
        )
    return (
        f"--init {source} does not fit: {name} is {list(theirs)} there and {list(ours)} here. Pre-train on "
        f"images of this size and channels, with the same architecture_arguments (there: {arguments})."
    )
