"""Find the architecture of a state dict: all tensor names and shapes must agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models import architectures
from robust_eval.models.architectures import ArchitectureFile, Inferred, Shapes
from robust_eval.models.loading import closest_network
from robust_eval.models.loading.closest_network import Closest
from robust_eval.models.loading.layer_limit import limited_layers
from robust_eval.models.loading.recorded_normalisation import description_notes, without_descriptions
from robust_eval.models.loading.state_dict_diff import (
    NoFitError,
    State,
    compare,
    completed,
    name_some,
    shapes_of,
)

_AVERAGED = re.compile(r"ema|swa|average|teacher", re.IGNORECASE)


@dataclass(frozen=True)
class Fit:
    """An architecture all of whose tensors are in the file."""

    inferred: Inferred
    state: State
    """The complete state dict, with the names of the network."""
    notes: tuple[str, ...]
    prefix: str = ""
    rest: tuple[str, ...] = ()
    """Names in the file without the prefix."""


def meta_network(
    architecture: Architecture, *, classes: int, channels: int, image_size: tuple[int, int]
) -> nn.Module:
    """The network on the meta device: it has no values, so no tensor can keep a random initial value.

    Raises:
        ValueError: for a network of more than 2,500 layers.
    """
    with torch.device("meta"), limited_layers():
        return architectures.build(
            architecture.id,
            classes=classes,
            channels=channels,
            image_size=image_size,
            **architecture.arguments,
        )


def fit(
    state: State, name: str, *, arch: str | None = None, image_size: tuple[int, int] | None = None
) -> Fit:
    """Find the architecture with exactly the tensors of ``state``.

    ``arch`` restricts the candidates to one id. ``image_size`` is that of the evaluated images.

    Raises:
        NoFitError: if none fits; the message names the closest architecture and the differences.
        UserError: if the file has several networks, or tensors beside them.
    """
    state, left_out = without_descriptions(state)
    files = architectures.files() if arch is None else {arch: architectures.find(arch)[0]}
    found: list[Fit] = []
    closest = Closest()
    for view in _views(state):
        for file in files.values():
            renamed = _renamed(view.state, file)
            try:
                inferred = file.infer(shapes_of(renamed))
                if inferred is None or arch not in (None, inferred.architecture.id):
                    continue
                network = meta_network_of(inferred, image_size)
            except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
                # The file has the names of this architecture, but shapes that no network has.
                continue
            difference = compare(shapes_of(network.state_dict()), shapes_of(renamed))
            closest.update(difference, inferred.architecture.id)
            if difference.exact:
                complete = completed(renamed, network.state_dict(), name)
                notes = (*description_notes(left_out), *_naming_notes(view, renamed))
                found.append(Fit(inferred, complete, notes, view.prefix, view.rest))
    if found:
        return _one_of(found, state, name)
    if arch is not None:
        if closest.difference is None:
            closest.update(compare(_shapes_of_id(arch), shapes_of(state)), arch)
        raise NoFitError(
            f"{name} is not {arch}: {closest.difference}. Omit --arch to detect the architecture."
        )

    def known() -> Iterator[tuple[str, Shapes]]:
        return ((arch_id, _shapes_of_id(arch_id)) for arch_id in architectures.ids())

    raise NoFitError(closest_network.message(name, closest, shapes_of(state), known))


def _shapes_of_id(arch_id: str) -> Shapes:
    network = meta_network(Architecture(arch_id), classes=10, channels=3, image_size=(32, 32))
    return shapes_of(network.state_dict())


@dataclass(frozen=True)
class _View:
    """A state dict without a prefix; names that lack the prefix are kept or left out."""

    prefix: str
    state: State
    rest: tuple[str, ...] = ()
    """Names left out."""


def _views(state: State) -> Iterator[_View]:
    yield _View("", state)
    prefixes: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")[:-1]
        prefixes.update(".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 4) + 1))
    for prefix, count in prefixes.items():
        # The prefix of a network is common to many names; a file may contain up to five networks.
        if count < len(state) / 5:
            continue
        # Names without the prefix are kept, e.g. those of a head next to its backbone.
        mixed = {key.removeprefix(prefix): value for key, value in state.items()}
        if len(mixed) == len(state):
            yield _View(prefix, mixed)
        rest = tuple(key for key in state if not key.startswith(prefix))
        if rest:
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            yield _View(prefix, part, rest)


def meta_network_of(inferred: Inferred, image_size: tuple[int, int] | None) -> nn.Module:
    """The inferred network on the meta device, for the image size inferred from its tensors."""
    size = inferred.image_size or image_size or (32, 32)
    return meta_network(
        inferred.architecture, classes=inferred.classes, channels=inferred.channels, image_size=size
    )


def _renamed(view: State, file: ArchitectureFile) -> State:
    """Rename tensors by the ALIASES of an architecture file."""
    renamed = {}
    for key, value in view.items():
        own = key
        for pattern, replacement in getattr(file, "ALIASES", ()):
            own = re.sub(pattern, replacement, own)
        renamed[own] = value
    return renamed if len(renamed) == len(view) else view


def _naming_notes(view: _View, renamed: State) -> tuple[str, ...]:
    notes = [f"removed '{view.prefix}' from the names"] if view.prefix else []
    changed = [(old, new) for old, new in zip(view.state, renamed, strict=True) if old != new]
    if changed:
        notes.append(f"renamed {len(changed)} tensors ({changed[0][0]} to {changed[0][1]})")
    return tuple(notes)


def _one_of(found: list[Fit], state: State, name: str) -> Fit:
    """The fit that uses all tensors of the file; identical copies of a network count as one."""
    complete = [fit for fit in found if not fit.rest]
    if complete:
        return complete[0]
    covered = tuple(fit.prefix for fit in found)
    beyond = [key for key in found[0].rest if not key.startswith(covered)]
    if beyond:
        raise UserError(
            f"{name} has more tensors than {found[0].inferred.architecture.id} under "
            f"'{found[0].prefix}': {name_some(beyond)}. To ignore them, name the part to use: "
            f"{name}#{found[0].prefix[:-1]}."
        )
    first = found[0]
    if all(_equal(first.state, other.state) for other in found[1:]):
        return first
    plain = [fit for fit in found if not _AVERAGED.search(fit.prefix)]
    if len(plain) != 1:
        options = ", ".join(fit.prefix[:-1] for fit in found)
        raise UserError(
            f"{name} contains several networks: {options}. Choose one: {name}#{first.prefix[:-1]}."
        )
    others = ", ".join(fit.prefix[:-1] for fit in found if fit is not plain[0])
    note = f"the file also contains {others}: choose with '#', {name}#NAME"
    return Fit(plain[0].inferred, plain[0].state, (*plain[0].notes, note), plain[0].prefix)


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def check_against_images(
    inferred: Inferred, name: str, *, channels: int, image_size: tuple[int, int], data: str
) -> None:
    """Raise :class:`UserError` if channels or size of the images do not fit the network."""
    if inferred.channels != channels:
        raise UserError(
            f"{name} takes images with {inferred.channels} channel{'s' if inferred.channels > 1 else ''}, "
            f"but those of {data} have {channels}. Choose the data it was trained on with --data."
        )
    arguments: dict[str, Any] = {"classes": inferred.classes, "channels": channels}
    network = meta_network(inferred.architecture, image_size=image_size, **arguments)
    if not compare(
        shapes_of(network.state_dict()), shapes_of(meta_network_of(inferred, image_size).state_dict())
    ).exact:
        own = "x".join(map(str, inferred.image_size or ()))
        raise UserError(
            f"{name} takes {own} images, but those of {data} are {image_size[0]}x{image_size[1]}. "
            "Choose the data it was trained on with --data."
        )
