"""Rank rows by a paired test: rows without a significant difference share a rank. No I/O.

Rows are compared within a group: the same images, threat model and suite, as computed and not as named. A
group is sorted by the ranking column, best first. The best row is the leader of rank 1. Each following row
shares the rank of the current leader if McNemar's exact two-sided test on the same images gives p >= 0.05
between the two; otherwise it becomes the leader of a new rank, one more than the number of rows above it
(1, 1, 3). Rows are tested against the leader and not against their neighbour, so that a chain of small
differences cannot tie the first row with the last. Rows of adjacent ranks may therefore not differ
significantly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robust_eval.core.statistics import mcnemar
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard.row import WORST_CASE, Row, order_rows
from robust_eval.results.comparison import SIGNIFICANT, same_attacks

GroupKey = tuple[str, str, str, str, str, int, str, str]


@dataclass(frozen=True)
class RankedRow:
    """A row and its rank; None for a row that is shown without a rank."""

    row: Row
    rank: int | None
    shared: bool = False
    """Whether other rows have the same rank."""

    @property
    def text(self) -> str:
        """``1``, ``1=`` for a shared rank, ``-`` for none."""
        if self.rank is None:
            return "-"
        return f"{self.rank}=" if self.shared else str(self.rank)


def group_key(row: Row) -> GroupKey:
    """Rows are comparable if this is equal: (data, split, norm, eps, suite, n, fingerprint, columns).

    ``suite`` is the label and ``columns`` the digest of ``Row.suite``. Rows of a named suite
    share a group only with each other, custom rows with those of the same columns and attacks.
    """
    data, threat, suite = row.result.data, row.result.threat, row.suite
    columns = "" if suite.label == suite.claim else suite.computed
    return data.name, data.split, threat.norm, threat.eps, suite.label, data.n, data.fingerprint, columns


def group_rows(rows: Iterable[Row]) -> list[list[Row]]:
    """Groups of comparable rows in a fixed order; of one dataset the largest number of images first."""
    groups: dict[GroupKey, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.result.status == "partial"):
        key = group_key(row)
        if row.result.status == "partial":
            # An unfinished row has no rank. It is shown with rows that agree with its finished columns.
            alike = (k for k, (first, *_) in groups.items() if k[:-1] == key[:-1] and _agree(row, first))
            key = next(alike, key)
        groups.setdefault(key, []).append(row)
    return [groups[key] for key in sorted(groups, key=lambda key: (*key[:5], -key[5], *key[6:]))]


def _agree(partial: Row, row: Row) -> bool:
    """Whether the finished columns of a row, and the ids of the others, are those of another row."""
    one, other = partial.result, row.result
    return one.suite.columns == other.suite.columns and all(
        name in other.columns and same_attacks(column, other.columns[name])
        for name, column in one.columns.items()
    )


def rank_rows(rows: Sequence[Row], by: str = WORST_CASE) -> list[RankedRow]:
    """The rows of one group with their ranks, best first; rows without a rank last."""
    rankable, others = order_rows(list(rows), by)
    ranks: list[int] = []
    leader = None
    for position, row in enumerate(rankable, start=1):
        if leader is None or _differ(leader, row, by):
            leader, rank = row, position
        ranks.append(rank)
    found = [RankedRow(row, rank, ranks.count(rank) > 1) for row, rank in zip(rankable, ranks, strict=True)]
    return found + [RankedRow(row, None) for row in others]


def _differ(one: Row, other: Row, by: str) -> bool:
    a, b = one.count(by), other.count(by)
    assert a is not None
    assert b is not None
    bits_a, bits_b = parse_bits(a.robust_bits), parse_bits(b.robust_bits)
    return mcnemar(int((bits_a & ~bits_b).sum()), int((bits_b & ~bits_a).sum())) < SIGNIFICANT
