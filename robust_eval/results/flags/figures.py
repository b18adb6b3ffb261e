"""TODO."""

from __future__ import annotations

from dataclasses import dataclass

FINE, COARSE = 1e-5, 1e-4
"""Sizes of the sign noise; the logits of smooth networks answer it in proportion."""


@dataclass(frozen=True)
class Probe:
    """Figures on ``n`` images; fractions lie in [0, 1]."""

    n: int
    nonfinite: float
    """Fraction of images with a NaN or infinite logit."""
    training_modules: int
    """Submodules still in training mode after ``eval()``."""
    probabilities: bool
    """Outputs are non-negative with one and the same sum for every image."""
    one_class: bool
    """One class is predicted for every image, although three or more occur among the labels."""
    optimises: bool
    """The forward pass differentiates something itself."""
    repeat: float
    """Largest difference between passes over the same batch."""
    batch: float
    """Largest difference between a batch and its images one by one."""
    fine: NoiseResponse
    coarse: NoiseResponse
    no_gradient: bool
    """The outputs carry no gradient to the input at all."""
    zero_ce: float
    """Fraction of images whose cross-entropy gradient is zero, denormal or not finite."""
    zero_margin: float
    """The same for the margin loss, which does not saturate."""
    weak_margin: float
    """Fraction of images whose margin could not change by 0.1% of the logits' standard deviation if
    every pixel followed its gradient from 0 to 1."""
    gradient_repeat: float
    """Largest difference between gradients of the same margin, relative to the image's largest entry."""
    gradient_sign_errors: float
    """Fraction of images, among those with a gradient, whose margin a step of 1/255 against it does not
    lower."""


@dataclass(frozen=True)
class NoiseResponse:
    """How the logits answer sign noise of one size, at most over all draws, images and classes."""

    change: float
    """``|f(x + n) - f(x)|``"""
    second_difference: float
    """``|f(x + n) + f(x - n) - 2 f(x)|``: next to nothing for a smooth ``f``, as large as the change for one
    that jumps."""
