"""Planted models that transform their input, most of them published as defenses.

Built on any network for images in [0, 1], (N, C, H, W).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_eval.verification.selftest.base_networks import ModifiedNetwork

# The luminance table of the JPEG standard (ITU-T T.81, table K.1), for quality 50.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


class Thermometer(ModifiedNetwork):
    """Thermometer code of every pixel (Buckman et al. 2018), and the mean of its bits: no gradient."""

    levels = 16

    def change_input(self, x: Tensor) -> Tensor:
        return (x[..., None] > self.thresholds(x)).to(x).mean(-1)

    def thresholds(self, x: Tensor) -> Tensor:
        """The pixel value from which each bit is one (levels,)."""
        return (torch.arange(self.levels).to(x) + 0.5) / self.levels


class SmoothThermometer(Thermometer):
    """The same with steep sigmoids for bits: a staircase whose steps have almost no gradient."""

    def change_input(self, x: Tensor) -> Tensor:
        steepness = 16 * self.levels
        return torch.sigmoid(steepness * (x[..., None] - self.thresholds(x))).mean(-1)


class JpegCompressed(ModifiedNetwork):
    """Rounds the coefficients of 8x8 blocks as JPEG at quality 50 (Guo et al. 2018): no gradient.

    The colour transform of JPEG is left out; height and width must be multiples of 8.
    """

    def change_input(self, x: Tensor) -> Tensor:
        table = torch.tensor(_LUMINANCE).to(x) / 255
        dct = _dct_matrix().to(x)
        blocks = (x - 0.5).unfold(2, 8, 8).unfold(3, 8, 8)
        coefficients = ((dct @ blocks @ dct.T) / table).round() * table
        rows = (dct.T @ coefficients @ dct).transpose(3, 4)
        return (rows.reshape(x.shape) + 0.5).clamp(0, 1)


class MedianFiltered(ModifiedNetwork):
    """A 3x3 median filter (feature squeezing, Xu et al. 2018)."""

    def change_input(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(-1).values


class VariationMinimised(ModifiedNetwork):
    """Twenty steps that reduce the total variation (Guo et al. 2018), without a gradient."""

    @torch.no_grad()
    def change_input(self, x: Tensor) -> Tensor:
        smooth = x.clone()
        for _ in range(20):
            right, down = smooth.diff(dim=3), smooth.diff(dim=2)
            right, down = (step / (step.square() + 1e-2).sqrt() for step in (right, down))
            slope = F.pad(right, (1, 0)) - F.pad(right, (0, 1)) + F.pad(down, (0, 0, 1, 0))
            slope = slope - F.pad(down, (0, 0, 0, 1)) + 4 * (smooth - x)
            smooth = smooth - 0.02 * slope
        return smooth


class RandomlyResized(ModifiedNetwork):
    """Resizes to a random smaller size and pads at a random place (Xie et al. 2018)."""

    def change_input(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        size = int(torch.randint(side - max(1, side // 8), side + 1, ()))
        left, top = (int(torch.randint(0, side - size + 1, ())) for _ in range(2))
        small = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        return F.pad(small, (left, side - size - left, top, side - size - top))


class Resized(ModifiedNetwork):
    """Resizes to seven eighths and back: always the same function, harmless on its own."""

    def change_input(self, x: Tensor) -> Tensor:
        size = x.shape[-1] - max(1, x.shape[-1] // 8)
        small = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        return F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)


class RandomNoise(ModifiedNetwork):
    """Adds noise of standard deviation 0.1 (random self-ensemble, Liu et al. 2018)."""

    def change_input(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class PixelsReconstructed(ModifiedNetwork):
    """Drops a random half of the pixels and completes them at low rank (ME-Net, Yang et al. 2019).

    The image is completed by three rounds of truncation to rank 4, without a gradient.
    """

    @torch.no_grad()
    def change_input(self, x: Tensor) -> Tensor:
        kept = torch.rand_like(x) < 0.7
        image = torch.where(kept, x, x.mean((2, 3), keepdim=True))
        for _ in range(3):
            u, s, v = torch.linalg.svd(image, full_matrices=False)
            low_rank: Tensor = (u[..., :4] * s[..., None, :4]) @ v[..., :4, :]
            image = torch.where(kept, x, low_rank)
        return low_rank


class MixedWithNoise(ModifiedNetwork):
    """Averages predictions of the image mixed with random images (mixup inference, Pang et al. 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        mixed = [0.7 * x + 0.3 * torch.rand_like(x) for _ in range(5)]
        logits: Tensor = torch.stack([self.network(one) for one in mixed]).mean(0)
        return logits


class BinarisedBySigmoid(ModifiedNetwork):
    """A sigmoid so steep that most pixels become 0 or 1: gradients are small, but not zero."""

    def change_input(self, x: Tensor) -> Tensor:
        return torch.sigmoid(60 * (x - 0.5))


class SmoothStaircase(ModifiedNetwork):
    """A smooth staircase of four levels per pixel: flat where images lie, steep in between."""

    def change_input(self, x: Tensor) -> Tensor:
        return x - torch.sin(2 * math.pi * 4 * x) / (2 * math.pi * 4)


def _dct_matrix() -> Tensor:
    """The orthonormal 8-point discrete cosine transform (8, 8)."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    matrix = 0.5 * torch.cos(math.pi * (2 * n + 1) * k / 16)
    matrix[0] /= math.sqrt(2)
    return matrix
