"""The sections of a recipe. Every field changes the result.

Step sizes are fractions of epsilon, and points in time are fractions of the run, so that they scale with
``--eps`` and ``--epochs``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from defenses.objectives import Section
from robust_eval.core.errors import UserError
from robust_eval.core.threat import Norm, format_fraction, parse_fraction


def _fraction(value: object) -> Fraction:
    if isinstance(value, Fraction):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a fraction such as 1/4, or a number")
    try:
        return parse_fraction(str(value), "the value")
    except UserError as error:
        raise ValueError(str(error)) from None


Ratio = Annotated[
    Fraction,
    BeforeValidator(_fraction),
    Field(ge=0, strict=False),
    PlainSerializer(format_fraction, return_type=str),
]
Ratios = Annotated[tuple[Ratio, ...], Field(strict=False)]


class Threat(Section):
    """The threat model: norm, and epsilon for pixels in [0, 1]."""

    norm: Norm
    eps: Ratio


class Inner(Section):
    """The inner maximisation: PGD that makes the adversarial training images (AWP paper, section 2)."""

    steps: int = Field(ge=0)
    """0: train on natural images."""
    step_size: Ratio
    """As a fraction of epsilon."""
    start: Literal["uniform", "gaussian", "none"]
    start_size: Ratio
    """uniform: as a fraction of epsilon; gaussian: standard deviation in units of the pixel range [0, 1]."""
    restarts: int = Field(ge=1)
    project: bool
    """False: do not project onto the epsilon ball (N-FGSM). Images are always clamped to [0, 1]."""
    batch_norm: Literal["train", "eval"]
    """Mode of BatchNorm during the attack; in train mode the attack changes the running statistics."""


class Replicate(Section):
    """Slips of the authors' code that change numbers; off in all recipes, on to repeat their runs."""

    unclamped_start: bool
    """TRADES, MART, RST: the attack's start may lie outside [0, 1]."""
    ball_around_start: bool
    """Pre-training: the ball is around the start, so that x' may be two radii away from x."""
    wide_start: bool
    """AWP on SVHN, L2: the uniform start fills [-1/2, 1/2] for every pixel, whatever the radius."""


class Perturbation(Section):
    """Weight perturbation: adversarial (awp), random (rwp) or none."""

    kind: Literal["none", "awp", "rwp"]
    gamma: float = Field(ge=0, le=10)
    """Norm of the perturbation of a weight tensor, relative to the norm of the tensor."""
    size: Literal["L1", "L2", "global"]
    """Norm, of each weight tensor; global: the L2 norm of all tensors together (AWP paper, Appendix D.2)."""
    alternations: int = Field(ge=1)
    """A: number of alternations between input and weight perturbation (AWP paper, Algorithm 2)."""
    steps: int = Field(ge=1)
    """K2: ascent steps on the weights per alternation."""
    step_size: Ratio
    """eta2 as a fraction of gamma; 0 means 1/(A K2)."""
    warmup: Ratio = Field(le=1)
    """Fraction of the epochs, at the start of the run, without perturbation."""
    regulariser: Literal["none", "absolute", "square"]
    """none: minimise rho(w+v); absolute: rho(w) + strength * |rho(w+v) - rho(w)|; square: its square."""
    strength: float = Field(ge=0)


class Optimiser(Section):
    """The optimiser of the weights."""

    name: Literal["sgd", "adam", "adamw"]
    """adamw: weight decay apart from the gradient (Loshchilov and Hutter 2019)."""
    lr: float = Field(gt=0, le=1e6)
    momentum: float = Field(ge=0, lt=1)
    nesterov: bool
    weight_decay: float = Field(ge=0, le=1000)
    decay: Literal["all", "weights"]
    """weights: only tensors with more than one dimension, not biases and BatchNorm parameters."""
    undecayed_lr: Literal["scheduled", "constant"]
    """constant: parameters without weight decay keep the initial rate (as in Rice et al.'s L2 run)."""
    l1: float = Field(ge=0, le=1000)
    """Factor of the L1 norm of the weights, which is added to the loss."""
    clip: float = Field(ge=0)
    """Largest L2 norm of the gradient of all parameters, which is scaled down to it; 0: any."""


class Schedule(Section):
    """Learning rate as a function of time, within each period of the run."""

    kind: Literal["constant", "piecewise", "cosine", "cyclic"]
    clock: Literal["iteration", "epoch", "epoch-from-1"]
    """Unit of time; see :func:`defenses.recipes.schedules.epochs_elapsed`."""
    milestones: Ratios
    """piecewise: fractions of the period at which the rate is multiplied by ``factor``."""
    factor: float = Field(gt=0, le=1)
    peak: Ratio = Field(le=1)
    """cyclic: fraction of the period at which the rate reaches ``optimiser.lr``."""
    final: float = Field(ge=0)
    """cosine: rate at the end of the period."""
    periods: Ratios
    """Fractions of the run at which the schedule restarts; a snapshot is saved at the end of each period."""


class EpsilonSchedule(Section):
    """Epsilon as a function of time, within each period: fractions of the full epsilon, at most 1.

    The section is called ``budget`` in recipes, checkpoints and learning curves.
    """

    kind: Literal["constant", "linear", "cosine"]
    start: Ratio
    peak: Ratio


class Augment(Section):
    """Data augmentation of the training images."""

    crop_padding: int = Field(ge=0)
    padding: Literal["reflect", "zero"]
    flip: bool
    rotation: float = Field(ge=0, le=180)
    """Largest angle in degrees, in both directions."""
    cutout: int = Field(ge=0)
    """Side of the black square in pixels; 0: none."""
    mixup: float = Field(ge=0)
    """alpha of Beta(alpha, alpha); 0: none."""


class Training(Section):
    """Length, batches and averaging of the training."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    unlabelled: Ratio = Field(lt=1)
    """Fraction of each batch that is drawn from the pseudo-labelled images."""
    fresh_head: bool
    """With --init: replace the last layer by a newly initialised one."""
    natural_forward: bool
    """After each update, a train-mode forward on the natural batch, for the BatchNorm statistics."""
    ema: float = Field(ge=0, lt=1)
    """Decay of the exponential moving average of the weights, which is measured and saved; 0: none."""
    sync_batch_norm: bool
    """With several devices: BatchNorm statistics of the whole batch in updates, never in attacks."""


class Selection(Section):
    """Measurement of epochs, checkpoint selection and early stopping."""

    validation: int = Field(ge=0)
    """Images held out from the training set, at most a fifth of it; 0: the last epoch is selected."""
    train_images: int = Field(ge=0)
    """Training images that are measured, for the robust generalisation gap."""
    test_images: int = Field(ge=0)
    """Test images that are measured, for comparison with the papers; never used for selection."""
    steps: int = Field(ge=1)
    step_size: Ratio
    """Of the measuring attack (PGD with uniform start), as a fraction of epsilon."""
    every: int = Field(ge=1)
    """Epochs between measurements."""
    keep_every: int = Field(ge=0)
    """Epochs between saved checkpoints; 0: none."""
    patience: int = Field(ge=0)
    """Stop after this many measurements without improvement; 0: never."""
    patience_from: Ratio
    """Fraction of the run after which ``patience`` applies."""
    collapse_after: int = Field(ge=0)
    """Stop after this many consecutive measurements with a single predicted class; 0: never."""
