"""The common corruptions of CIFAR-10-C, CIFAR-100-C and ImageNet-C (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Mapping

SEVERITIES = (1, 2, 3, 4, 5)
ALEXNET_ERROR: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error under each corruption of ImageNet-C, mean of the severities (the authors' repository)."""
CORRUPTIONS = tuple(ALEXNET_ERROR)
"""The 15 of the benchmark, in the order of a whole set: by corruption, then by severity, then by image."""
MORE = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The authors' held-out corruptions, which do not count."""
