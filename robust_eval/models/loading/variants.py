"""The networks that the tensors of a foreign file may belong to: one architecture with other arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models import architectures
from robust_eval.models.architectures import Arguments, Inferred
from robust_eval.models.loading.architecture_fit import meta_network_of
from robust_eval.models.loading.batchnorm_choice import EPS_VARIANT
from robust_eval.models.loading.state_dict_diff import State, compare, shapes_of

_REQUESTED = "arguments as requested: "
_UNIT = 0.02
"""Weights of a class whose norm is this close to 1 were normalised before they were saved."""


@dataclass(frozen=True)
class Variants:
    """An architecture whose tensors are all in the file, with the arguments that the user named."""

    name: str
    inferred: Inferred
    state: State
    asked: Arguments
    image_size: tuple[int, int] | None
    device: torch.device

    @property
    def default(self) -> dict[str, Any]:
        """Arguments inferred from the tensors, or named by the user."""
        head = {"head": "cosine"} if self._head is not None and _has_unit_rows(self._head) else {}
        return {**self.inferred.architecture.arguments, **head, **self.asked}

    @property
    def others(self) -> Sequence[Arguments]:
        """Arguments that the BatchNorm layers may speak for; not those that the user named."""
        tried = (*self.inferred.variants, EPS_VARIANT)
        return [one for one in tried if not one.keys() & self.asked.keys()]

    @property
    def _head(self) -> Tensor | None:
        name = self.inferred.biasless_head
        return None if name is None else self.state[name]

    @property
    def untold_head(self) -> str:
        """What no statistics tell about the last layer; '' if nothing is open."""
        if self._head is None or "head" in self.asked:
            return ""
        norms = self._head.norm(dim=1)
        return (
            "the last layer has no bias and may be linear (?head=linear) or a cosine (?head=cosine&scale=S); "
            f"the norms of its weights are {float(norms.min()):.2g} to {float(norms.max()):.2g}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The names of the arguments that the user named; :func:`requested` reads them."""
        return (_REQUESTED + ", ".join(self.asked),) if self.asked else ()

    def architecture(self, arguments: Arguments) -> Architecture:
        """The architecture with these arguments, as a result records it."""
        return Architecture(self.inferred.architecture.id, arguments)

    def build(self, arguments: Arguments) -> nn.Module:
        """The network with the tensors of the file, in eval mode on the device.

        Raises:
            UserError: if it cannot be built, or has other tensors than the file.
        """
        own, arch = self.inferred, self.architecture(arguments)
        try:
            network = meta_network_of(
                Inferred(arch, own.classes, own.channels, own.image_size), self.image_size
            )
        except (TypeError, ValueError, KeyError, RuntimeError, ZeroDivisionError) as error:
            raise UserError(f"{arch.id} cannot be built with {dict(arguments)}: {error}.") from None
        difference = compare(shapes_of(network.state_dict()), shapes_of(self.state))
        if not difference.exact:
            raise UserError(f"{self.name} is not {arch.id} with {dict(self.asked)}: {difference}.")
        network.load_state_dict(self.state, assign=True)
        return network.to(self.device).eval()


def _has_unit_rows(weights_KF: Tensor) -> bool:
    return bool(((weights_KF.norm(dim=1) - 1).abs() < _UNIT).all())


def requested(notes: Iterable[str]) -> tuple[str, ...]:
    """The names of the arguments that the user named, according to the notes of a loaded checkpoint."""
    found = [note.removeprefix(_REQUESTED) for note in notes if note.startswith(_REQUESTED)]
    return tuple(found[0].split(", ")) if found else ()


def split(arch: str | None) -> tuple[str | None, dict[str, Any]]:
    """The id in ``--arch`` (None: any) and the arguments after ``?``.

    Raises:
        UserError: for an unknown id or argument.
    """
    if arch is None:
        return None, {}
    arch_id, asked = architectures.split_arguments(arch)
    architectures.check_arguments(arch_id, asked)
    return arch_id, asked
