"""Networks, one file each: CIFAR-sized, from *normalised* input to logits.

An architecture file has

- ``IDS``: the ids to list (``wrn-28-10`` stands for any depth and width);
- ``sizes(arch_id)``: the arguments an id spells out, None where it is another file's id;
- ``build(*, classes, channels, image_size, **arguments) -> nn.Module``;
- ``infer(shapes) -> Inferred | None``: the best guess from a state dict's names and shapes;
- optionally ``ALIASES``: (pattern, replacement) for the names that other code uses for the same layers.

Modules are named as in the public code, so that public checkpoints load without translation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from torch import nn

from robust_eval.core.discovery import module, module_ids
from robust_eval.core.errors import unknown
from robust_eval.core.types import Architecture

Shapes = Mapping[str, tuple[int, ...]]
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Inferred:
    """What a state dict seems to be. A guess: the caller compares every key and shape."""

    architecture: Architecture
    classes: int
    channels: int
    image_size: tuple[int, int] | None = None
    """Where the shapes tell it: the smallest size that fits."""
    variants: tuple[Arguments, ...] = field(default=())
    """Further arguments under which the same tensors compute something else; only images can tell."""


class ArchitectureFile(Protocol):
    """The shape of a module in this package."""

    IDS: tuple[str, ...]

    def sizes(self, arch_id: str) -> dict[str, Any] | None: ...

    def build(
        self, *, classes: int, channels: int, image_size: tuple[int, int], **arguments: Any
    ) -> nn.Module: ...

    def infer(self, shapes: Shapes) -> Inferred | None: ...


def count_children(shapes: Shapes, prefix: str) -> int:
    """How many numbered children ``prefix.0``, ``prefix.1``, ... a state dict has."""
    found = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    numbers = [int(match[1]) for key in shapes if (match := found.match(key))]
    return max(numbers, default=-1) + 1


def non_default(arguments: Arguments, defaults: Arguments) -> dict[str, Any]:
    """The arguments that differ from their defaults: what an :class:`Architecture` records."""
    return {name: value for name, value in arguments.items() if value != defaults[name]}


def kaiming_normal(network: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """He initialisation of every convolution (biases 0); nothing on the meta device, where it is slow."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def files() -> dict[str, ArchitectureFile]:
    """Every architecture file, imported, by stem."""
    return {stem: cast("ArchitectureFile", module(__name__, stem)) for stem in module_ids(__name__)}


def ids() -> tuple[str, ...]:
    """Architectures that can be named; ``wrn-28-10`` stands for any depth and width."""
    return tuple(arch_id for file in files().values() for arch_id in file.IDS)


def find(arch_id: str) -> tuple[ArchitectureFile, dict[str, Any]]:
    """The file that knows an id, and the arguments the id spells out."""
    for file in files().values():
        sizes = file.sizes(arch_id)
        if sizes is not None:
            return file, sizes
    raise unknown("architecture", arch_id, ids())


def build(
    arch_id: str, *, classes: int, channels: int, image_size: tuple[int, int], **arguments: Any
) -> nn.Module:
    """A fresh network from *normalised* ``x_NCHW`` to ``logits_NK``; no normalisation inside.

    ``image_size`` is (height, width); ``arguments`` are those of the architecture's file. Raises
    UserError for an unknown id and for images that are too small for the network.
    """
    file, sizes = find(arch_id)
    return file.build(classes=classes, channels=channels, image_size=image_size, **{**sizes, **arguments})
