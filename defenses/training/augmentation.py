"""Augmentation of a batch on its device. Images are float32 in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.recipes.sections import Augment


def augment(x_NCHW: Tensor, config: Augment) -> Tensor:
    """Crop, flip, rotate and cut out, in this order; draws from torch's global generator."""
    if config.crop_padding:
        x_NCHW = random_crop(x_NCHW, config.crop_padding, config.padding)
    if config.flip:
        flipped = torch.rand(len(x_NCHW), device=x_NCHW.device) < 0.5
        x_NCHW = torch.where(flipped.view(-1, 1, 1, 1), x_NCHW.flip(3), x_NCHW)
    if config.rotation:
        x_NCHW = random_rotation(x_NCHW, config.rotation)
    if config.cutout:
        x_NCHW = cutout(x_NCHW, config.cutout)
    return x_NCHW


def random_crop(x_NCHW: Tensor, padding: int, mode: str) -> Tensor:
    """Pad on all sides (``reflect`` or ``zero``) and crop a random window of the original size per image.

    ``reflect`` falls back to ``zero`` if the padding is not smaller than the image.
    """
    n, _, height, width = x_NCHW.shape
    largest = min(height, width) - 1
    padded = F.pad(
        x_NCHW, [padding] * 4, mode="reflect" if mode == "reflect" and padding <= largest else "constant"
    )
    device = x_NCHW.device
    top = torch.randint(2 * padding + 1, (n, 1), device=device) + torch.arange(height, device=device)
    left = torch.randint(2 * padding + 1, (n, 1), device=device) + torch.arange(width, device=device)
    image = torch.arange(n, device=device)[:, None, None]
    # Advanced indices on both sides of the channel slice move channels last: N, H, W, C.
    return padded[image, :, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_rotation(x_NCHW: Tensor, degrees: float) -> Tensor:
    """Rotate each image by its own angle from (-degrees, degrees); nearest pixel, black outside."""
    n, _, height, width = x_NCHW.shape
    angle = (torch.rand(n, device=x_NCHW.device) * 2 - 1) * (degrees * math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Grid coordinates run from -1 to 1 along both sides, so non-square images need the aspect ratio.
    across, down = -sin * (height / width), sin * (width / height)
    matrix = torch.stack([torch.stack([cos, across, zero], 1), torch.stack([down, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(x_NCHW.shape), align_corners=False)
    return F.grid_sample(x_NCHW, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def cutout(x_NCHW: Tensor, side: int) -> Tensor:
    """Blacken one square per image, entirely inside it (Rice et al. 2020; their best side is 14 of 32)."""
    n, _, height, width = x_NCHW.shape
    side = min(side, height, width)
    device = x_NCHW.device
    top = torch.randint(height - side + 1, (n, 1), device=device)
    left = torch.randint(width - side + 1, (n, 1), device=device)
    rows = (torch.arange(height, device=device) - top).remainder(height + width) < side
    columns = (torch.arange(width, device=device) - left).remainder(height + width) < side
    return x_NCHW.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def mixup(x_NCHW: Tensor, y_N: Tensor, alpha: float, classes: int) -> tuple[Tensor, Tensor]:
    """Images mixed with a permutation of the batch, and class probabilities (N, K) mixed equally.

    One lambda per batch from Beta(alpha, alpha). Cross-entropy against mixed probabilities equals the
    mixture of the two cross-entropies, so attack and training loss need one forward pass instead of two.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    partner = torch.randperm(len(x_NCHW), device=x_NCHW.device)
    y_NK = F.one_hot(y_N, classes).to(x_NCHW.dtype)
    mixed = share * x_NCHW + (1 - share) * x_NCHW[partner]
    return mixed, share * y_NK + (1 - share) * y_NK[partner]
