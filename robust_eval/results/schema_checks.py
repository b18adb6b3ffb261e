"""The records of checks on the model and on the attacks of a run, parts of a result file."""

from __future__ import annotations

from robust_eval.core.closed_model import ClosedModel
from robust_eval.results.schema_types import NonNegativeInt


class DiagnosisRecord(ClosedModel):
    """Counts of ``--diagnose`` over ``images`` examples that are classified correctly without an attack."""

    images: NonNegativeInt
    broken: NonNegativeInt
    """Examples broken by PGD-20, as in its column."""
    broken_more_steps: NonNegativeInt
    """Examples broken by PGD-40."""
    lost_more_steps: NonNegativeInt = 0
    """Examples broken by PGD-20 but not by PGD-40."""
    broken_restarts: NonNegativeInt
    """Examples broken by PGD-20 from at least one of five starts."""
    broken_short_steps: NonNegativeInt
    """Examples broken by PGD-20 with a quarter of the step."""
    lost_short_steps: NonNegativeInt = 0
    """Examples broken by PGD-20, but not with a quarter of the step."""
    broken_long_steps: NonNegativeInt
    """Examples broken by PGD-20 with four times the step."""
    lost_long_steps: NonNegativeInt = 0
    """Examples broken by PGD-20, but not with four times the step."""
    not_rising: NonNegativeInt
    """Examples whose margin PGD-20 did not reduce."""
    unbounded_left: NonNegativeInt
    """Examples not broken although any image in the box is allowed."""
    noise_alone: NonNegativeInt
    """Examples broken by random noise in the ball, but by none of the attacks above."""
    forwards: NonNegativeInt
    backwards: NonNegativeInt


class DisagreementRecord(ClosedModel):
    """Effect of reduced precision: the same attacks, images and seeds, also run in float32."""

    images: NonNegativeInt
    attacks: tuple[str, ...]
    verdicts: NonNegativeInt
    """Number of images times number of attacks."""
    weaker: NonNegativeInt
    """Broken only with attacks in float32."""
    stronger: NonNegativeInt
    """Broken only with attacks in reduced precision."""


class TuningRecord(ClosedModel):
    """How the attack copy was called in one precision; affects verdicts only through rounding."""

    rows: int | None
    """Images per call without gradients; None: the entire batch."""
    gradient_rows: int | None
    compiled: bool
    gradient_compiled: bool
    near_rows: int | None = None
    """SPSA queries per call if differences are computed in bfloat16; None: ordinary forward passes."""


class SearchRecord(ClosedModel):
    """How the attack copy of the model was accelerated."""

    notes: tuple[str, ...]
    tunings: dict[str, TuningRecord]
    disagreement: DisagreementRecord | None = None
    """Set if attacks of a column ran in less than float32."""


class SecondJudgementRecord(ClosedModel):
    """The verdicts of a model that was loaded again and had seen no clean image, on images of the run."""

    images: NonNegativeInt
    survivors: NonNegativeInt
    """Images of robust examples; the others are of broken ones."""
    batch_sizes: tuple[int, ...]
    """Every image was judged in a batch of each of these sizes."""
    broken_differ: NonNegativeInt = 0
    """Images of broken examples that were classified correctly, by more than rounding."""
    survivors_differ: NonNegativeInt = 0
    """Images of robust examples that were misclassified, by more than rounding."""
    clean_logits: float | None = None
    """Difference between its logits of clean images, shown last, and those of the run before the attacks, of
    the median image, in units of the logits' standard deviation."""
    problem: str = ""
    """Why the model could not be loaded again."""
