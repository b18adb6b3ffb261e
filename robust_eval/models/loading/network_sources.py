"""``--arch SOURCE:NAME``: networks that are built outside this package, with initial weights.

================================  ==========================================================
``path.py:function``              code of the user, executed at the user's request
``package.module:function``       the same, in an importable package
``timm:NAME``                     a model of timm
``torchvision:NAME``              a classifier of torchvision
``robustbench:MODEL_ID``          the network of an entry of RobustBench's zoo
================================  ==========================================================

Each may be followed by ``?name=value&name=value``, arguments of the function that builds the network. The
ids of :mod:`robust_eval.models.architectures` contain no colon. Names of libraries may also come from a file
or a result: they choose among networks that the library defines. Code of the user is only run if the user
names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import ONE_LOGIT, split_arguments
from robust_eval.models.loading import library_networks, python_architecture
from robust_eval.models.loading.layer_limit import limited_layers


@dataclass(frozen=True)
class Shape:
    """What a network must fit."""

    classes: int
    channels: int
    image_size: tuple[int, int]
    """(height, width)"""


Builder = Callable[[str, Shape, Mapping[str, Any]], nn.Module]
LIBRARIES: Mapping[str, Builder] = {
    "timm": library_networks.timm,
    "torchvision": library_networks.torchvision,
    "robustbench": library_networks.robustbench,
}


# Arguments with which timm and torchvision load weights or read files.
_OTHER_PURPOSES = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("scriptable", "exportable", "no_jit", "features_only", "weights", "weights_backbone", "progress"),
}
_LARGEST = 2**16


def is_external(arch: str) -> bool:
    """Whether a network is built outside this package."""
    return ":" in arch.partition("?")[0]


def is_library(arch: str) -> bool:
    """Whether a network is defined by a known library, so that no code of the user runs."""
    return arch.partition(":")[0] in LIBRARIES and is_external(arch)


def build(arch: str, shape: Shape, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of ``SOURCE:NAME?arguments``, with initial weights.

    ``arguments`` are further ones, such as those that a checkpoint records.

    Raises:
        UserError: if it cannot be built; the message gives the reason.
    """
    name, given = split_arguments(arch)
    given = {**(arguments or {}), **given}
    given.pop(python_architecture.DIGEST, None)
    given.pop(ONE_LOGIT, None)
    source, _, rest = name.partition(":")
    if source not in LIBRARIES:
        return python_architecture.build(name, vars(shape) | {"num_classes": shape.classes}, given)
    _check_untrusted(name, given)
    try:
        with limited_layers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LIBRARIES[source](rest, shape, given)
    except UserError:
        raise
    except Exception as error:
        size = "x".join(map(str, shape.image_size))
        text = str(error).strip().splitlines() or ["no message"]
        raise UserError(
            f"{name} cannot be built for {shape.classes} classes and {shape.channels}x{size} images with the "
            f"arguments {dict(given)}: {type(error).__name__}: {text[0]}."
        ) from error


def _check_untrusted(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` for arguments, possibly from a file, that do more than describe a network."""
    for argument, value in arguments.items():
        if argument in _OTHER_PURPOSES:
            raise UserError(f"{name}: the argument {argument} is not used; weights come from the checkpoint.")
        if isinstance(value, int | float) and abs(value) > _LARGEST:
            raise UserError(f"{name}: {argument}={value} is larger than {_LARGEST}.")


def identity(arch: str) -> Architecture:
    """The architecture as results record it: without folders, with the digest of code of the user."""
    name, given = split_arguments(arch)
    if is_library(arch):
        return Architecture(name, given)
    return Architecture(
        python_architecture.portable(name),
        {**given, python_architecture.DIGEST: python_architecture.sha256(name)},
    )
