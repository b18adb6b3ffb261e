"""Ranks that the data can bear: rows that a paired test cannot tell apart share one. Pure.

Rows are compared within a group: the same images, threat model and suite. In a group they are sorted
by the ranking column, best first. The best row leads rank 1. Each row after it shares the rank of the
leader before it when McNemar's exact two-sided test on the same images gives p >= 0.05 between the
two; otherwise it leads a new rank, whose number is one more than the rows above it (1, 1, 3). Sharing
is always with the leader, not with the neighbour, so that a chain of small steps cannot tie the first
with the last; two rows of neighbouring ranks may still be hard to tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robust_eval.core.statistics import mcnemar
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard.row import WORST_CASE, Row, ranked
from robust_eval.results import EvalResult
from robust_eval.results.comparison import SIGNIFICANT

GroupKey = tuple[str, str, str, str, str, int, str]


@dataclass(frozen=True)
class Place:
    """A row and its rank; None for a row that is shown without one."""

    row: Row
    rank: int | None
    shared: bool = False
    """Other rows have the same rank."""

    @property
    def text(self) -> str:
        if self.rank is None:
            return "-"
        return f"{self.rank}=" if self.shared else str(self.rank)


def group_key(result: EvalResult) -> GroupKey:
    """Rows compare where this is equal: (data, split, norm, eps, suite, n, fingerprint)."""
    data, threat = result.data, result.threat
    suite = f"{result.suite.name} v{result.suite.version}"
    return data.name, data.split, threat.norm, threat.eps, suite, data.n, data.fingerprint


def grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that compare with each other, groups in a fixed order; the largest slice of a data set first."""
    groups: dict[GroupKey, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_key(row.result), []).append(row)
    return [groups[key] for key in sorted(groups, key=lambda key: (*key[:5], -key[5], key[6]))]


def places(rows: Sequence[Row], by: str = WORST_CASE) -> list[Place]:
    """The rows of one group with their ranks, best first; rows without a rank last."""
    able, unable = ranked(list(rows), by)
    ranks: list[int] = []
    leader = None
    for position, row in enumerate(able, start=1):
        if leader is None or _differ(leader, row, by):
            leader, rank = row, position
        ranks.append(rank)
    found = [Place(row, rank, ranks.count(rank) > 1) for row, rank in zip(able, ranks, strict=True)]
    return found + [Place(row, None) for row in unable]


def _differ(one: Row, other: Row, by: str) -> bool:
    a, b = one.count(by), other.count(by)
    assert a is not None
    assert b is not None
    bits_a, bits_b = parse_bits(a.robust_bits), parse_bits(b.robust_bits)
    return mcnemar(int((bits_a & ~bits_b).sum()), int((bits_b & ~bits_a).sum())) < SIGNIFICANT
