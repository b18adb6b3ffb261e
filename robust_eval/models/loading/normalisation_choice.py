"""Choose normalisation and variant of a foreign network: as requested, as recorded, or by accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.loading import normalisation_probe
from robust_eval.models.normalisation import parse_normalisation


def choose(
    networks: Sequence[tuple[Architecture, nn.Module]],
    name: str,
    *,
    channels: int,
    recorded: Normalisation | None,
    requested: str | None,
    images: ImageSet | None,
    device: torch.device,
) -> tuple[normalisation_probe.Candidate, tuple[str, ...]]:
    """(candidate, notes): one of ``networks`` with its normalisation, and the reason.

    ``networks`` are on the device, the default variant first. ``recorded``: the normalisation in the file;
    ``requested``: that of the user.

    Raises:
        UserError: if the normalisation cannot be determined.
    """
    plain, network = networks[0]
    wanted = None if requested is None else parse_normalisation(requested, channels)
    notes = () if wanted is None else (f"input normalisation '{wanted.name}' as requested",)
    if images is None:
        known = wanted or recorded
        if known is None:
            raise UserError(
                f"{name} does not record its input normalisation. Add --data, so that it can be determined, "
                "or --normalisation."
            )
        return normalisation_probe.Candidate(network, plain, known.name, known), notes
    if wanted is not None and len(networks) == 1:
        return normalisation_probe.Candidate(network, plain, wanted.name, wanted), notes
    tried = (
        [wanted]
        if wanted is not None
        else normalisation_probe.candidate_normalisations(channels, images.name, recorded)
    )
    candidates = [
        normalisation_probe.Candidate(
            net,
            arch,
            _label(arch, plain, entry),
            entry,
            recorded=entry is recorded,
            variant=net is not network,
        )
        for arch, net in networks
        for entry in tried
    ]
    x, y = images.take(min(images.n, normalisation_probe.ROUNDS[-1])).tensors()
    chosen, sentence = normalisation_probe.probe(
        candidates, x.to(device), y.to(device), images.classes, name, requested=wanted is not None
    )
    return chosen, (sentence,)


def _label(architecture: Architecture, plain: Architecture, normalisation: Normalisation) -> str:
    extra = {k: v for k, v in architecture.arguments.items() if plain.arguments.get(k) != v}
    return " ".join([normalisation.name, *(f"with {key}={value}" for key, value in extra.items())])
