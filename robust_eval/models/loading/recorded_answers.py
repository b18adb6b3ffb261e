"""The logits of a few random images, stored with a checkpoint: other code of the network answers otherwise.

They also differ if a library that the code uses has changed, which no digest of the code tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robust_eval.core.logits import median_difference, output_problem
from robust_eval.core.torch_state import standard_state
from robust_eval.core.types import Normalisation
from robust_eval.models import outputs
from robust_eval.models.normalisation import Normalised

Answers = tuple[tuple[float, ...], ...]
"""Logits, (N, K)."""
TOLERANCE = 1e-3
"""In standard deviations of the logits; other devices and versions of torch differ by about 1e-5."""
_IMAGES = 4
_MOST_PIXELS = 3 * 1024**2


def measure(
    network: nn.Module, normalisation: Normalisation, channels: int, image_size: Sequence[int]
) -> Answers | None:
    """The logits of a network, in eval mode; None if it fails, or if they differ from call to call."""
    modes = {module: module.training for module in network.modules()}
    try:
        first, again = (_logits(network, normalisation, channels, image_size) for _ in range(2))
    except Exception:
        # Code of the user may raise any exception; its checkpoint is saved nevertheless.
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not torch.equal(first, again):
        return None
    return tuple(tuple(row) for row in first.tolist())


def difference(
    network: nn.Module,
    normalisation: Normalisation,
    channels: int,
    image_size: Sequence[int],
    recorded: Answers,
) -> float:
    """Largest difference from the recorded logits, of the median image, in their standard deviations."""
    try:
        found = _logits(network, normalisation, channels, image_size)
    except Exception:
        # Code of the user may raise any exception; the evaluation names it.
        return float("inf")
    if [len(row) for row in recorded] != [len(row) for row in found]:
        return float("inf")
    return median_difference(found, torch.tensor(recorded))


@standard_state()
@torch.no_grad()
def _logits(
    network: nn.Module, normalisation: Normalisation, channels: int, image_size: Sequence[int]
) -> Tensor:
    if channels * math.prod(image_size) > _MOST_PIXELS:
        raise ValueError("too large an image, of a size that may come from an untrusted file")
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x_NCHW = torch.rand(_IMAGES, channels, *image_size, generator=generator)
    output = Normalised(network, normalisation).to(device).eval()(x_NCHW.to(device))
    if place := outputs.place_of_logits(output):
        output = outputs.take(output, place)
    if output_problem(output, _IMAGES) or not output.isfinite().all():
        raise ValueError("no finite logits")
    logits: Tensor = output.float().cpu()
    return logits
