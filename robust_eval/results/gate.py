"""A floor for continuous integration: may this checkpoint pass? Pure."""

from __future__ import annotations

from fractions import Fraction

from robust_eval.core.errors import UserError, unknown
from robust_eval.results import Count, EvalResult, flags
from robust_eval.results.comparison import WORST


def parse_floor(percent: float) -> float:
    """A floor in percent, checked: 0.5 is more likely meant as 50."""
    if not 0 <= percent <= 100:
        raise UserError(f"--min-robust is in percent, 0 to 100, got {percent:g}.")
    if 0 < percent < 1:
        raise UserError(f"--min-robust is in percent, got {percent:g}. Did you mean {100 * percent:g}?")
    return percent


def chosen(result: EvalResult, column: str) -> Count:
    """The column by its id, or the worst case; ``worst-case`` is understood too."""
    if column.replace("-", " ") == WORST:
        return result.worst_case
    if column in result.missing:
        raise UserError(f"Column {column} of this result is not finished. Continue the run first.")
    if column not in result.columns:
        raise unknown("column", column, [*result.columns, "worst-case"])
    return result.columns[column]


def failures(result: EvalResult, column: str, min_percent: float) -> list[str]:
    """One sentence for each reason to stop; none where the result passes."""
    count = chosen(result, column)
    found = []
    if result.status == "partial":
        found.append(f"The result is partial: {', '.join(result.missing)} not finished.")
    found += [
        f"Flag {flag.id} blocks ranking: {flag.figure}. {flag.advice}" for flag in flags.blocking(result)
    ]
    # Exactly: 57 of 100 meet a floor of 57, but 100 * 0.57 is below it.
    if Fraction(100 * count.n_robust, count.n) < Fraction(str(min_percent)):
        found.append(
            f"Robust accuracy under {column} is {100 * count.accuracy:.2f}% "
            f"({count.n_robust}/{count.n}), below the floor of {min_percent:g}%."
        )
    return found
