"""Check a result against a minimum robust accuracy, for continuous integration."""

from __future__ import annotations

from fractions import Fraction

from robust_eval.core.errors import UserError, unknown
from robust_eval.results import Count, EvalResult, flags
from robust_eval.results.comparison import WORST


def parse_minimum(percent: float) -> float:
    """Check a minimum in percent. Raises :class:`UserError` for 0.5, which probably means 50."""
    if not 0 <= percent <= 100:
        raise UserError(f"--min-robust is in percent, 0 to 100, got {percent:g}.")
    if 0 < percent < 1:
        raise UserError(f"--min-robust is in percent, got {percent:g}. Did you mean {100 * percent:g}?")
    return percent


def find_column(result: EvalResult, column: str) -> Count:
    """The column with this id, or the worst case for ``worst-case``.

    Raises :class:`UserError` for an unknown or unfinished column.
    """
    if column.replace("-", " ") == WORST:
        return result.worst_case
    if column in result.missing:
        raise UserError(f"Column {column} of this result is not finished. Continue the run first.")
    if column not in result.columns:
        raise unknown("column", column, [*result.columns, "worst-case"])
    return result.columns[column]


def failures(result: EvalResult, column: str, min_percent: float) -> list[str]:
    """One sentence for each reason why the result does not pass; empty if it passes."""
    count = find_column(result, column)
    reasons = []
    if result.status == "partial":
        reasons.append(f"The result is partial: {', '.join(result.missing)} not finished.")
    reasons += [
        f"Flag {flag.id} blocks ranking: {flag.figure}. {flag.advice}" for flag in flags.blocking(result)
    ]
    # Exact arithmetic: 57 of 100 reach a minimum of 57, but 100 * 0.57 is below it.
    if Fraction(100 * count.n_robust, count.n) < Fraction(str(min_percent)):
        reasons.append(
            f"Robust accuracy under {column} is {100 * count.accuracy:.2f}% "
            f"({count.n_robust}/{count.n}), below the minimum of {min_percent:g}%."
        )
    return reasons
