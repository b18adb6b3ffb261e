"""Network architectures, one file each, from *normalised* input to logits.

An architecture file defines

- ``IDS``: the ids to list (``wrn-28-10`` also represents other depths and widths);
- ``sizes(arch_id)``: the arguments in an id, or None if the id does not belong to the file;
- ``build(*, classes, channels, image_size, **arguments) -> nn.Module``;
- ``infer(shapes) -> Inferred | None``: a guess from the names and shapes of a state dict;
- optionally ``ALIASES``: (pattern, replacement) pairs for other names of the same layers in public code.

Every architecture also takes ``batchnorm_eps``, which :func:`build` sets, and ``one_logit``, for which the
loader changes the weights (:mod:`robust_eval.models.loading.one_logit`).

Submodules are named as in the public code, so that public checkpoints can be loaded. Files are found by
name; no registration is needed. This module contains the interface of a file, the catalogue of all files
(:func:`files`, :func:`ids`, :func:`find`, :func:`build`), and helpers for architecture files. May import
``robust_eval.core``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from torch import nn

from robust_eval.core.discovery import module, module_ids
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Architecture

BATCHNORM_EPS = "batchnorm_eps"
"""Argument of every architecture: the constant that BatchNorm adds to variances (default 1e-5)."""
ONE_LOGIT = "one_logit"
"""Argument of every architecture: the file has one logit for two classes."""
Shapes = Mapping[str, tuple[int, ...]]
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Inferred:
    """The probable architecture of a state dict; the caller must compare all names and shapes."""

    architecture: Architecture
    classes: int
    channels: int
    image_size: tuple[int, int] | None = None
    """The smallest image size that fits, if the shapes determine it."""
    variants: tuple[Arguments, ...] = field(default=())
    """Other arguments with the same tensor shapes but another function: the statistics that BatchNorm layers
    remember distinguish them."""
    biasless_head: str | None = None
    """Name of the weights of a last layer without bias: a linear one or a cosine head, which no statistics
    distinguish."""


class ArchitectureFile(Protocol):
    """The interface of an architecture file."""

    IDS: tuple[str, ...]

    def sizes(self, arch_id: str) -> dict[str, Any] | None: ...

    def build(
        self, *, classes: int, channels: int, image_size: tuple[int, int], **arguments: Any
    ) -> nn.Module: ...

    def infer(self, shapes: Shapes) -> Inferred | None: ...


def files() -> dict[str, ArchitectureFile]:
    """All architecture files (imported), by file stem."""
    return {stem: cast("ArchitectureFile", module(__name__, stem)) for stem in module_ids(__name__)}


def ids() -> tuple[str, ...]:
    """The ids of all files; ``wrn-28-10`` represents any depth and width."""
    return tuple(arch_id for file in files().values() for arch_id in file.IDS)


def find(arch_id: str) -> tuple[ArchitectureFile, dict[str, Any]]:
    """The file of an id, and the arguments in the id.

    Raises:
        UserError: for an unknown id, with a suggestion.
    """
    for file in files().values():
        sizes = file.sizes(arch_id)
        if sizes is not None:
            return file, sizes
    if arch_id.endswith(".py"):
        raise UserError(f"--arch {arch_id} names no function: write {arch_id}:FUNCTION.")
    raise unknown("architecture", arch_id, ids())


def build(
    arch_id: str, *, classes: int, channels: int, image_size: tuple[int, int], **arguments: Any
) -> nn.Module:
    """Build a network with initial weights, from *normalised* ``x_NCHW`` to ``logits_NK``.

    ``image_size`` is (height, width); ``arguments`` are those of the ``build`` function of the file, and
    ``batchnorm_eps``.

    Raises:
        UserError: for an unknown id, and for images that are too small for the network.
    """
    file, sizes = find(arch_id)
    eps = arguments.pop(BATCHNORM_EPS, None)
    arguments.pop(ONE_LOGIT, None)
    network = file.build(classes=classes, channels=channels, image_size=image_size, **{**sizes, **arguments})
    if eps is not None:
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eps = float(eps)
    return network


def split_arguments(arch: str) -> tuple[str, dict[str, Any]]:
    """Split ``ID?name=value&name=value`` into the id and the arguments; values are JSON or plain words.

    Raises:
        UserError: for text after ``?`` of another form.
    """
    arch_id, _, query = arch.partition("?")
    arguments = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise UserError(f"--arch {arch}: write arguments as {arch_id}?NAME=VALUE&NAME=VALUE.")
        arguments[name] = _value(value)
    return arch_id, arguments


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def check_arguments(arch_id: str, arguments: Arguments) -> None:
    """Raise :class:`UserError` for an argument that the architecture does not have."""
    file, sizes = find(arch_id)
    given = {"classes", "channels", "image_size", *sizes}
    known = {*inspect.signature(file.build).parameters, BATCHNORM_EPS, ONE_LOGIT} - given
    for name in arguments:
        if name not in known:
            raise unknown(f"argument of {arch_id}:", name, known)


def count_children(shapes: Shapes, prefix: str) -> int:
    """The number of children ``prefix.0``, ``prefix.1`` etc. in a state dict; at most 1000."""
    found = re.compile(re.escape(prefix) + r"\.(\d{1,3})\.")
    numbers = [int(match[1]) for key in shapes if (match := found.match(key))]
    return max(numbers, default=-1) + 1


def non_default(arguments: Arguments, defaults: Arguments) -> dict[str, Any]:
    """The arguments that differ from their defaults; an :class:`Architecture` records only these."""
    return {name: value for name, value in arguments.items() if value != defaults[name]}


def kaiming_normal(network: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """He initialisation of all convolutions (biases 0); skipped on the meta device, where it is slow."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
