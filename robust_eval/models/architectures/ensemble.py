"""The average of several networks of one architecture (snapshot ensembles, Liu et al. 2020).

The output is the logarithm of the mean softmax. Its softmax is that mean, so losses and predictions are those
of the averaged probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models import architectures
from robust_eval.models.architectures import Inferred, Shapes, count_children

IDS = ("ensemble",)


class Ensemble(nn.Module):
    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        log_p_MNK = torch.stack([member(x).log_softmax(1) for member in self.members])
        return log_p_MNK.logsumexp(0) - log(len(self.members))


def sizes(arch_id: str) -> dict[str, Any] | None:
    return {} if arch_id == "ensemble" else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],
    of: str = "resnet-18",
    members: int = 2,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """``members`` networks of architecture ``of``, built with its own ``arguments``."""
    if of in IDS or members < 1:
        raise UserError(f"An ensemble of {members} x {of} cannot be built.")
    shape: dict[str, Any] = {"classes": classes, "channels": channels, "image_size": image_size}
    return Ensemble([architectures.build(of, **shape, **(arguments or {})) for _ in range(members)])


def infer(shapes: Shapes) -> Inferred | None:
    count, first = count_children(shapes, "members"), "members.0."
    inner = {key.removeprefix(first): shape for key, shape in shapes.items() if key.startswith(first)}
    for stem, file in architectures.files().items():
        found = file.infer(inner) if stem not in IDS and inner else None
        if found is not None:
            of = found.architecture
            arguments = {"of": of.id, "members": count}
            arguments |= {"arguments": dict(of.arguments)} if of.arguments else {}
            variants = tuple({"arguments": {**of.arguments, **variant}} for variant in found.variants)
            return Inferred(
                Architecture("ensemble", arguments),
                found.classes,
                found.channels,
                found.image_size,
                variants,
                first + found.biasless_head if found.biasless_head else None,
            )
    return None
