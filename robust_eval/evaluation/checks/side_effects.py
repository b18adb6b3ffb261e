"""Find the side effects of a model: writing into its input, seeding generators, opening files, a memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core import seeds
from robust_eval.core.errors import UserError
from robust_eval.core.logits import median_difference
from robust_eval.core.threat import ThreatModel
from robust_eval.core.torch_state import standard_state
from robust_eval.evaluation.checks import memory_probe, system_calls
from robust_eval.evaluation.checks.attack_points import repeated
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration.deep_copy import copy_model
from robust_eval.models.isolation import Isolated, writes_into_input
from robust_eval.results.flags.figures import SideEffects

_FEW = 8
"""Images of the first call."""
_CALLS = 3
"""Calls with clean images before the perturbed ones are shown."""


@standard_state()
@torch.no_grad()
def measure(
    model: nn.Module, x_NCHW: Tensor, threat: ThreatModel, *, rows: int | None = None, seed: int = 0
) -> SideEffects:
    """Measure the side effects of a model on a few images; the model itself is not called, but copies of it.

    ``threat``: gives the size of the perturbations under which it must not remember an image.
    ``rows``: images per call of a run; by default those given.
    """
    # A perturbation of this size in every pixel has the norm epsilon.
    pixels = 1.0 if threat.norm == "Linf" else x_NCHW[0].numel() ** 0.5
    try:
        probed, seen, unseen = (copy_model(model) for _ in range(3))
    except UserError:
        # A model that cannot be copied is refused when the attack copy is made.
        return SideEffects()
    # First, and with few images first: a memory that is full remembers no others.
    change = memory_probe.change_in_next_call(probed, x_NCHW, (_FEW, rows or len(x_NCHW)))
    writes = writes_into_input(seen, x_NCHW)
    return SideEffects(
        writes=writes,
        seeds=_seeded(seen, x_NCHW),
        opens=_opened(seen, x_NCHW.flip(3)),
        memory=_memory(seen, unseen, x_NCHW, rows or len(x_NCHW), threat.radius / pixels, seed),
        change_in_next_call=change,
    )


def _opened(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """What a model opens in a call with images that are new to it, other than its first call."""
    with system_calls.recorded() as found:
        model(x)
    return tuple(sorted(found))


def _seeded(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """The generators that are in the same state after a call, whatever their states were before."""
    after = []
    for number in (1, 2):
        for seed, _ in _GENERATORS.values():
            seed(number)
        model(x.clone())
        after.append([state() for _, state in _GENERATORS.values()])
    return tuple(name for name, one, other in zip(_GENERATORS, *after, strict=True) if one == other)


_GENERATORS: dict[str, tuple[Callable[[int], Any], Callable[[], bytes]]] = {
    "torch": (torch.manual_seed, lambda: torch.get_rng_state().numpy().tobytes()),
    "numpy": (np.random.seed, lambda: repr(np.random.get_state(legacy=False)).encode()),
    "random": (random.seed, lambda: repr(random.getstate()).encode()),
}
"""(seed, state) of the global generators."""


def _memory(seen: nn.Module, unseen: nn.Module, x: Tensor, rows: int, size: float, seed: int) -> float:
    """Difference between the logits of perturbed images by a copy that was shown the clean ones, and by one
    that was not; of a quarter of the images, in units of the logits' standard deviation.

    The images are blends of two, which were certainly not shown when the model was loaded. Like clean images
    they have 8-bit pixels and are shown in a batch of ``rows`` too: a model may remember only such ones.
    """
    generator = torch.Generator().manual_seed(seeds.derive(seed, "side effects"))
    blends = (255 * (x + x.roll(1, 0)) / 2).round() / 255
    noise = size * (2 * torch.randint(0, 2, x.shape, generator=generator).to(x) - 1)
    perturbed = (blends + noise).clamp(0, 1)
    first = Isolated(unseen)(perturbed)
    again = Isolated(seen)
    out_of_memory.with_fewer(lambda n: again(repeated(blends, n)), rows)
    for _ in range(_CALLS - 1):
        again(blends)
    again.stream.seed(0)
    return median_difference(again(perturbed), first, share=0.25)
