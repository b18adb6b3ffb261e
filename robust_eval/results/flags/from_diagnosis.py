"""Flags raised by a diagnosis: convergence of the attacks, and attacks that must succeed."""

from __future__ import annotations

from collections.abc import Iterator

from robust_eval.results import DiagnosisRecord, FlagRecord
from robust_eval.results.flags.rules import Finding, records

GAIN = 0.06
"""Correctly evaluated checkpoints of this project gain up to 0.03, planted attacks 0.1 and more."""
NOT_RISING = 0.05
UNBOUNDED = 0.02
_MIN_EXAMPLES = 2


def from_diagnosis(found: DiagnosisRecord) -> tuple[FlagRecord, ...]:
    """Flags raised by the counts of ``--diagnose``."""
    return records(_findings(found))


def _findings(found: DiagnosisRecord) -> Iterator[Finding]:
    n = found.images

    def gains(broken: int) -> bool:
        return broken - found.broken > max(_MIN_EXAMPLES, GAIN * n)

    if gains(found.broken_more_steps):
        yield "more-steps-help", f"PGD-20 breaks {found.broken} of {n}, PGD-40 {found.broken_more_steps}"
    if gains(found.broken_restarts):
        yield (
            "more-restarts-help",
            f"PGD-20 breaks {found.broken} of {n} from one start, {found.broken_restarts} from five",
        )
    best, step = max(
        (found.broken_short_steps, "a quarter of the step"), (found.broken_long_steps, "four times the step")
    )
    if gains(best):
        yield "step-size-sensitive", f"PGD-20 breaks {found.broken} of {n}, {best} with {step}"
    if found.not_rising > NOT_RISING * n:
        yield "loss-not-rising", f"on {found.not_rising} of {n} examples"
    if found.unbounded_left > UNBOUNDED * n:
        yield "unbounded-attack-fails", f"{found.unbounded_left} of {n} examples are left"
    if found.noise_alone >= _MIN_EXAMPLES:
        yield "noise-beats-gradients", f"on {found.noise_alone} of {n} examples"
