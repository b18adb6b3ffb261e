"""Figures measured by the probes of a model, the input of :func:`~robust_eval.results.flags.from_probe`."""

from __future__ import annotations

from dataclasses import dataclass

FINE, COARSE = 1e-5, 1e-4
"""Sizes of the sign noise; the logits of a smooth network change in proportion to it."""


@dataclass(frozen=True)
class Probe:
    """Figures measured on ``n`` images. Fractions are in [0, 1]; differences between logits are in units of
    their standard deviation."""

    n: int
    nonfinite: float
    """Fraction of images with a NaN or infinite logit."""
    training_modules: int
    """Submodules still in training mode after ``eval()``."""
    probabilities: bool
    """Outputs are non-negative and have the same sum for every image."""
    one_class: bool
    """One class is predicted for every image, although three or more occur among the labels."""
    optimises: bool
    """The forward pass calls autograd itself."""
    repeat: float
    """Largest difference between forward passes over the same batch."""
    batch: float
    """Largest difference between a batch and its images passed one by one."""
    batch_size: int
    """The size of that batch."""
    output_type: str
    """Of the logits, such as ``float32``."""
    fine: NoiseResponse
    """Response to noise of size 1e-5."""
    coarse: NoiseResponse
    """Response to noise of size 1e-4."""
    no_gradient: bool
    """The outputs are not differentiable with respect to the input."""
    zero_ce: float
    """Fraction of images whose cross-entropy gradient is zero, denormal or not finite; in L2, whose norm
    is."""
    zero_margin: float
    """The same for the margin loss, which does not saturate."""
    weak_margin: float
    """Fraction of images whose margin could not change by 0.1% of the logits' standard deviation if
    every pixel followed its gradient from 0 to 1."""
    gradient_repeat: float
    """Largest difference between gradients of the same margin, relative to the image's largest entry."""
    gradient_sign_errors: float
    """Fraction of images, among those with a gradient, whose margin is not reduced by a step of 1/255
    against its sign."""
    decoys: float
    """Share of points whose strongest output but the label's is never predicted."""
    effects: SideEffects
    cosine: GradientCosines
    """Agreement of gradients with finite differences."""


@dataclass(frozen=True)
class SideEffects:
    """What a model does besides computing logits."""

    writes: bool = False
    """It writes into its input."""
    seeds: tuple[str, ...] = ()
    """Global generators that it seeds: torch, numpy, random."""
    opens: tuple[str, ...] = ()
    """What it opens after its first call: files, connections, processes, environment variables."""
    memory: float = 0.0
    """Difference between the logits of perturbed images by a copy that was shown the clean ones before, and
    by one that was not; of the median image."""
    change_in_next_call: float = 1.0
    """Change of the logits between near images in two calls, relative to what gradients promise: at most this
    much for two fifths of the images, which were never shown before; 1 if nothing can be compared."""


@dataclass(frozen=True)
class NoiseResponse:
    """Response of the logits ``f`` to sign noise ``n``: maximum over draws, images and classes."""

    change: float
    """``|f(x + n) - f(x)|``"""
    second_difference: float
    """``|f(x + n) + f(x - n) - 2 f(x)|``: close to zero for a smooth ``f``, as large as the change for a
    discontinuous one."""


@dataclass(frozen=True)
class GradientCosines:
    """Cosine between gradients and finite differences at three kinds of points; 1 if nothing was measured."""

    images: float = 1.0
    loss: float = 1.0
    """At the images, of cross-entropy; the others are of the margin."""
    ball: float = 1.0
    """At random points of the ball."""
    path: float = 1.0
    """On the path of PGD, the lowest."""
    batch: float = 1.0
    """At all of these points, the lowest, if gradients are computed in batches of ``batch_size``."""
    batch_size: int = 1
    lowest_image: float = 1.0
    """Of single images: the lowest cosine over all of these points."""

    @property
    def lowest(self) -> tuple[float, str]:
        """The lowest cosine, and where it was measured."""
        return min(
            (self.images, "at the images"),
            (self.loss, "of cross-entropy"),
            (self.ball, "at random points of the ball"),
            (self.path, "on the path of PGD"),
            (self.batch, f"in batches of {self.batch_size}"),
        )
