"""Effects with their 95% intervals: a rule that counts examples fires if the interval lies above a size."""

from __future__ import annotations

from dataclasses import dataclass

from robust_eval.core.statistics import exact_interval, paired_difference


@dataclass(frozen=True)
class Effect:
    """A share of examples, or a difference of two shares, with the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def exceeds(self, size: float) -> bool:
        """Whether the whole interval lies above ``size``."""
        return self.low > size

    def __str__(self) -> str:
        return f"{self.value:.1%}, 95% interval {self.low:.1%} to {self.high:.1%}"


def share(count: int, n: int) -> Effect:
    """The share ``count`` of ``n`` examples; 0 without examples."""
    count = min(count, n)
    return Effect(count / n if n else 0.0, *exact_interval(count, n))


def net_share(more: int, fewer: int, n: int) -> Effect:
    """The share of ``n`` examples that only one attack breaks minus the share that only another breaks."""
    # A result file may contain any numbers.
    more, fewer = min(more, n), min(fewer, n - min(more, n))
    return Effect((more - fewer) / n if n else 0.0, *paired_difference(more, fewer, n))
