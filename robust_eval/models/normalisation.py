"""Input normalisation: a table of known ones, and the module that applies one inside the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Normalisation

_NAMED = (
    Normalisation("none"),
    # The AWP code uses it for SVHN (mean = std = 0.5).
    Normalisation("2x-1", (0.5,), (0.5,)),
    # Pixels from 0 to 255, as in networks ported from other frameworks.
    Normalisation("0-255", (0.0,), (1 / 255,)),
    # Each image by the mean and standard deviation of its own pixels (Ding et al. 2020, RobustBench's MMA
    # models); mean and std of the entry are not used.
    Normalisation("per-image"),
    # Rice et al. 2020, Wu et al. 2020: mean and standard deviation of the training pixels.
    Normalisation("cifar10", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    # kuangliu/pytorch-cifar and its derivatives: std is the mean of the standard deviations of the images.
    Normalisation("cifar10-kuangliu", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Normalisation("cifar100", (0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
    Normalisation("svhn", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    Normalisation("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalisation("mnist", (0.1307,), (0.3081,)),
)
NORMALISATIONS: Mapping[str, Normalisation] = {entry.name: entry for entry in _NAMED}
NONE = NORMALISATIONS["none"]
PER_IMAGE = NORMALISATIONS["per-image"]


class Normalised(nn.Module):
    """The model ``network((x - mean) / std)``, from [0, 1] pixels to logits; per image for ``per-image``.

    Mean and standard deviation are not in the state dict: checkpoints contain only tensors of the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        self.per_image = normalisation.name == PER_IMAGE.name
        self.identity = all(m == 0 for m in normalisation.mean) and all(s == 1 for s in normalisation.std)
        for name, values in (("mean", normalisation.mean), ("std", normalisation.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """``x_NCHW`` in [0, 1] to ``logits_NK``."""
        logits: Tensor = self.network(self.normalise(x_NCHW))
        return logits

    def normalise(self, x_NCHW: Tensor) -> Tensor:
        """The input of the network for ``x_NCHW`` in [0, 1]."""
        if self.per_image:
            return standardise(x_NCHW)
        return x_NCHW if self.identity else (x_NCHW - self.mean) / self.std


def standardise(x_NCHW: Tensor) -> Tensor:
    """Subtract each image's mean and divide by its standard deviation (with N - 1), at least 1/sqrt(pixels).

    As in RobustBench's Ding2020MMA; the lower bound is that of TensorFlow's per_image_standardization.
    """
    pixels = x_NCHW[0].numel()
    std, mean = torch.std_mean(x_NCHW, dim=(1, 2, 3), keepdim=True)
    return (x_NCHW - mean) / std.clamp_min(pixels**-0.5)


def equivalent(one: Normalisation, other: Normalisation, tolerance: float = 1e-3) -> bool:
    """Whether two normalisations are the same function, up to ``tolerance`` in mean and std."""

    def close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        longer = max(len(a), len(b))
        wide = (values * (longer // len(values)) for values in (a, b))
        return all(abs(p - q) < tolerance for p, q in zip(*wide, strict=True))

    if PER_IMAGE.name in (one.name, other.name):
        return one.name == other.name
    return close(one.mean, other.mean) and close(one.std, other.std)


def parse_normalisation(text: str, channels: int) -> Normalisation:
    """Parse a name of the table, or ``MEAN/STD`` with values per channel: ``.49,.48,.45/.25,.24,.26``.

    Raises:
        UserError: for an unknown name, wrong numbers, or another number of channels.
    """
    if "/" not in text:
        if text not in NORMALISATIONS:
            raise unknown("normalisation", text, NORMALISATIONS)
        found = NORMALISATIONS[text]
    else:
        found = Normalisation(text, *(_values(part, text) for part in text.split("/", 1)))
    return check_normalisation(found, channels)


def _values(part: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in part.split(","))
    except ValueError:
        raise UserError(
            f"Normalisation '{text}' is not MEAN/STD with numbers, such as 0.49,0.48,0.45/0.25,0.24,0.26."
        ) from None


def check_normalisation(normalisation: Normalisation, channels: int) -> Normalisation:
    """Return ``normalisation``; raise :class:`UserError` if it cannot be applied to the channels."""
    for values in (normalisation.mean, normalisation.std):
        if len(values) not in (1, channels):
            raise UserError(
                f"Normalisation {normalisation.name} is for {len(values)} channels, "
                f"but the images have {channels}."
            )
    if not all(map(math.isfinite, (*normalisation.mean, *normalisation.std))):
        raise UserError(f"Normalisation {normalisation.name} has values that are not finite.")
    if not all(value > 0 for value in normalisation.std):
        raise UserError(f"Normalisation {normalisation.name} divides by {min(normalisation.std):g}.")
    return normalisation
