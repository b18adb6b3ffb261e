"""The typed sections of a recipe. Every field is a number or a choice that changes the result.

Sizes that depend on the budget are fractions of epsilon and points in time are fractions of the
run, so that ``--eps`` and ``--epochs`` alone keep a recipe's proportions.
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
    norm: Norm
    eps: Ratio


class Inner(Section):
    """The attack that makes the training images (reference: section 2 of the AWP paper)."""

    steps: int = Field(ge=0)
    """0 trains on natural images."""
    step_size: Ratio
    """A fraction of epsilon."""
    start: Literal["uniform", "gaussian", "none"]
    start_size: Ratio
    """uniform: a fraction of epsilon; gaussian: the standard deviation in pixels of [0, 1]."""
    restarts: int = Field(ge=1)
    project: bool
    """False leaves the ball, as N-FGSM does; the box [0, 1] always holds."""
    batch_norm: Literal["train", "eval"]
    """The model's mode while it is attacked; in train mode the attack moves BN's running statistics."""


class Perturbation(Section):
    """Weight perturbation: adversarial (AWP), random (RWP) or none."""

    kind: Literal["none", "awp", "rwp"]
    gamma: float = Field(ge=0, le=10)
    """Size of a tensor's perturbation relative to the tensor's own."""
    size: Literal["L1", "L2"]
    alternations: int = Field(ge=1)
    """A: how often input and weight perturbation take turns."""
    steps: int = Field(ge=1)
    """K2: ascent steps on the weights in each turn."""
    step_size: Ratio
    """eta2 as a fraction of gamma; 0 stands for 1/(A K2)."""
    warmup: Ratio = Field(le=1)
    """The fraction of the run's epochs that are trained without perturbation first."""
    regulariser: Literal["none", "absolute", "square"]
    """none minimises rho(w+v); the others rho(w) + strength * |rho(w+v) - rho(w)| or its square."""
    strength: float = Field(ge=0)


class Optimiser(Section):
    name: Literal["sgd", "adam"]
    lr: float = Field(gt=0, le=1e6)
    momentum: float = Field(ge=0, lt=1)
    nesterov: bool
    weight_decay: float = Field(ge=0, le=1000)
    decay: Literal["all", "weights"]
    """weights: multi-dimensional tensors alone, not biases and BatchNorm's scale and shift."""
    undecayed_lr: Literal["scheduled", "constant"]
    """constant: whatever weight decay spares keeps the first lr (what Rice et al.'s L2 run did)."""
    l1: float = Field(ge=0, le=1000)
    """Times the sum of absolute weights, added to the loss."""


class Schedule(Section):
    """The learning rate over time, within each period of the run."""

    kind: Literal["constant", "piecewise", "cosine", "cyclic"]
    clock: Literal["iteration", "epoch", "epoch-from-1"]
    milestones: Ratios
    """piecewise: fractions of the period after which the rate is multiplied by ``factor``."""
    factor: float = Field(gt=0, le=1)
    peak: Ratio = Field(le=1)
    """cyclic: where in the period the rate reaches ``optimiser.lr``."""
    final: float = Field(ge=0)
    """cosine: the rate at the end of the period."""
    periods: Ratios
    """Where the schedule starts afresh, as fractions of the run; a snapshot is kept at each end."""


class EpsilonSchedule(Section):
    """Epsilon over time, within each period; fractions of the full epsilon, capped at 1."""

    kind: Literal["constant", "linear", "cosine"]
    start: Ratio
    peak: Ratio


class Augment(Section):
    crop_padding: int = Field(ge=0)
    padding: Literal["reflect", "zero"]
    flip: bool
    rotation: float = Field(ge=0, le=180)
    """Degrees, drawn from (-rotation, rotation)."""
    cutout: int = Field(ge=0)
    """Side of the black square; 0 for none."""
    mixup: float = Field(ge=0)
    """alpha of Beta(alpha, alpha); 0 for none."""


class Training(Section):
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    unlabelled: Ratio = Field(lt=1)
    """Share of each batch that is drawn from the pseudo-labelled set."""
    fresh_head: bool
    """With --init: replace the last layer by a new one."""
    natural_forward: bool
    """A train-mode forward on the natural batch after the update, for BatchNorm's statistics alone."""
    ema: float = Field(ge=0, lt=1)
    """Decay of the averaged weights, which are then judged and saved; 0 for none."""
    sync_batch_norm: bool
    """On several devices: BatchNorm sees the whole batch, not each device's part; attacks never do."""


class Selection(Section):
    """How epochs are measured, the best one chosen and the run stopped."""

    validation: int = Field(ge=0)
    """Images held out from the training set, at most a fifth of it; 0: the last epoch is the best."""
    train_images: int = Field(ge=0)
    """Training images measured for the robust generalisation gap."""
    test_images: int = Field(ge=0)
    """Test images measured for a labelled replication of test-set maxima; never used to choose."""
    steps: int = Field(ge=1)
    step_size: Ratio
    """The measuring attack: PGD with uniform start; step as a fraction of epsilon."""
    every: int = Field(ge=1)
    """Epochs between measurements."""
    keep_every: int = Field(ge=0)
    """Epochs between kept checkpoints; 0 for none."""
    patience: int = Field(ge=0)
    """Stop after this many measurements without a better one; 0 for never."""
    patience_from: Ratio
    """The fraction of the run from which patience counts."""
    collapse_after: int = Field(ge=0)
    """Stop when this many measurements in a row predict one class only; 0 for never."""
