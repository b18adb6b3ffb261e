"""Find and build network architectures by id. Importing this module does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from robust_eval.core.discovery import module, module_ids
from robust_eval.core.errors import unknown

if TYPE_CHECKING:
    from torch import nn

    from robust_eval.models.architectures import ArchitectureFile

_PACKAGE = "robust_eval.models.architectures"


def files() -> dict[str, ArchitectureFile]:
    """Every architecture file, imported, by stem."""
    return {stem: cast("ArchitectureFile", module(_PACKAGE, stem)) for stem in module_ids(_PACKAGE)}


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
