"""Flags raised by a diagnosis: convergence of the attacks, and attacks that must succeed."""

from __future__ import annotations

from collections.abc import Iterator

from robust_eval.results import DiagnosisRecord, FlagRecord
from robust_eval.results.flags.effects import Effect, net_share, share
from robust_eval.results.flags.rule import Finding
from robust_eval.results.flags.rules import records

# Sizes as shares of the examples; the lower end of an effect's 95% interval must be above.
GAIN = 0.02
"""Correctly evaluated checkpoints of this project gain up to 3 of 100 examples (the interval begins below 0),
planted attacks 9 and more."""
NOT_RISING = 0.05
"""Networks trained with MART reach 9 of 100 examples (the interval begins at 3.6%): PGD follows the
cross-entropy, and their margin may rise meanwhile."""
LEFT = 0.005
"""Examples that must be broken and are not: none on the checkpoints of this project."""


def from_diagnosis(found: DiagnosisRecord) -> tuple[FlagRecord, ...]:
    """Flags raised by the counts of ``--diagnose``."""
    return records(_findings(found))


def _findings(found: DiagnosisRecord) -> Iterator[Finding]:
    n = found.images

    def left(count: int) -> Effect:
        return share(count, n)

    def gain(broken: int, lost: int) -> Effect:
        # Records of earlier versions lack the number of lost examples.
        lost = max(lost, found.broken - broken)
        return net_share(broken - found.broken + lost, lost, n)

    more = gain(found.broken_more_steps, found.lost_more_steps)
    if more.exceeds(GAIN):
        counts = f"PGD-20 breaks {found.broken} of {n}, PGD-40 {found.broken_more_steps}"
        yield "more-steps-help", f"{counts} (gain {more})"
    restarts = gain(found.broken_restarts, 0)
    if restarts.exceeds(GAIN):
        counts = f"PGD-20 breaks {found.broken} of {n} from one start, {found.broken_restarts} from five"
        yield "more-restarts-help", f"{counts} (gain {restarts})"
    best, lost, step = max(
        (found.broken_short_steps, found.lost_short_steps, "a quarter of the step"),
        (found.broken_long_steps, found.lost_long_steps, "four times the step"),
    )
    other = gain(best, lost)
    if other.exceeds(GAIN):
        counts = f"PGD-20 breaks {found.broken} of {n}, {best} with {step}"
        yield "step-size-sensitive", f"{counts} (gain {other})"
    if left(found.not_rising).exceeds(NOT_RISING):
        yield "loss-not-rising", f"on {found.not_rising} of {n} examples ({left(found.not_rising)})"
    if left(found.unbounded_left).exceeds(LEFT):
        figure = f"{found.unbounded_left} of {n} examples are left ({left(found.unbounded_left)})"
        yield "unbounded-attack-fails", figure
    if left(found.noise_alone).exceeds(LEFT):
        yield "noise-beats-gradients", f"on {found.noise_alone} of {n} examples ({left(found.noise_alone)})"
