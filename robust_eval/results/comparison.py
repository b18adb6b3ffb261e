"""Paired comparison of two results on the same examples: McNemar test and bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robust_eval.core.errors import UserError
from robust_eval.core.statistics import mcnemar
from robust_eval.core.types import Bools
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.results import ColumnRecord, EvalResult

SIGNIFICANT = 0.05
WORST = "worst case"
_DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """Results A and B under one column, on the same ``n`` examples. Accuracies are fractions."""

    column: str
    n: int
    accuracy_a: float
    accuracy_b: float
    only_a: int
    """Examples that are robust in A only."""
    only_b: int
    """Examples that are robust in B only."""
    p: float
    """p-value of the exact two-sided McNemar test."""
    interval: tuple[float, float]
    """95% bootstrap interval of the accuracy of A minus that of B, resampling examples."""

    @property
    def value(self) -> float:
        """Accuracy of A minus accuracy of B."""
        return (self.only_a - self.only_b) / self.n

    @property
    def significant(self) -> bool:
        """Whether p is below 0.05."""
        return self.p < SIGNIFICANT

    def sentence(self, a: str, b: str) -> str:
        """The comparison in words, in percentage points; ± is half the width of the bootstrap interval."""
        low, high = self.interval
        where = f"on the same {self.n:,} images"
        if self.only_a + self.only_b == 0:
            return f"{a} and {b} are right on exactly the same images ({self.n:,} compared)"
        if not self.significant:
            return (
                f"no significant difference between {a} and {b} {where} "
                f"({100 * self.value:+.1f} points, 95% from {100 * low:+.1f} to {100 * high:+.1f}, "
                f"p = {self.p:.2g})"
            )
        better = a if self.value > 0 else b
        size, half = 100 * abs(self.value), 50 * (high - low)
        return f"{better} is better by {size:.1f} ± {half:.1f} points {where} (p = {self.p:.2g})"


@dataclass(frozen=True)
class Comparison:
    """All columns that two results can be compared under."""

    differences: tuple[Difference, ...]
    """The shared columns in A's order, then the worst case over them if neither has other columns."""
    left_out: tuple[str, ...]
    """For each column that is not compared: its name and the reason."""


def compare(a: EvalResult, b: EvalResult, seed: int = 0) -> Comparison:
    """Compare every column that both results have with the same attacks.

    Raises :class:`UserError` unless both results are on the same images under the same threat model.
    Both must be free of contradictions (:mod:`robust_eval.results.consistency`).
    """
    if a.data.fingerprint != b.data.fingerprint or a.labels_sha256 != b.labels_sha256:
        raise UserError(
            f"The two results are not on the same images: A on {_images(a)}, B on {_images(b)}. "
            "Evaluate both on the same slice."
        )
    if a.threat != b.threat:
        raise UserError(
            f"The two results are under different threat models: A under {_threat(a)}, B under {_threat(b)}."
        )
    shared = [name for name in a.columns if name in b.columns]
    alike = [name for name in shared if same_attacks(a.columns[name], b.columns[name])]
    left_out = [f"{name}: the attacks have different settings" for name in shared if name not in alike]
    left_out += [f"{name}: only in A" for name in a.columns if name not in b.columns]
    left_out += [f"{name}: only in B" for name in b.columns if name not in a.columns]
    bits = [(name, _bits(a, (name,)), _bits(b, (name,))) for name in alike]
    if left_out:
        left_out.append(f"{WORST}: it is over other attacks")
    elif len(alike) > 1:
        bits.append((WORST, _bits(a, alike), _bits(b, alike)))
    return Comparison(tuple(difference(*entry, seed=seed) for entry in bits), tuple(left_out))


def difference(column: str, a: Bools, b: Bools, seed: int = 0) -> Difference:
    """Compare paired verdicts ``a`` and ``b``, (n,) bool each."""
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    return Difference(
        column,
        n,
        float(a.mean()),
        float(b.mean()),
        only_a,
        only_b,
        mcnemar(only_a, only_b),
        _bootstrap(only_a, only_b, n, seed),
    )


def _bootstrap(only_a: int, only_b: int, n: int, seed: int) -> tuple[float, float]:
    """95% percentile interval. Resampling examples with three possible outcomes is a multinomial draw."""
    rest = n - only_a - only_b
    draws = np.random.default_rng(seed).multinomial(n, [only_a / n, only_b / n, rest / n], size=_DRAWS)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)


def same_attacks(a: ColumnRecord, b: ColumnRecord) -> bool:
    """Whether two columns have the same attacks, versions and parameters, in the same order."""
    return [(x.family, x.version, x.params) for x in a.attacks] == [
        (x.family, x.version, x.params) for x in b.attacks
    ]


def _bits(result: EvalResult, columns: tuple[str, ...] | list[str]) -> Bools:
    bits: Bools = np.logical_and.reduce([parse_bits(result.columns[name].robust_bits) for name in columns])
    return bits


def _images(result: EvalResult) -> str:
    return f"{result.data.n:,} of {result.data.name} ({result.data.fingerprint[:8]})"


def _threat(result: EvalResult) -> str:
    return f"{result.threat.norm} {result.threat.eps}"
