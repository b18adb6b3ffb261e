"""Counts, accuracies and records computed from verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robust_eval.core.request import CLEAN
from robust_eval.core.statistics import wilson
from robust_eval.core.types import (
    AttackSpec,
    Bools,
    Column,
    Ints,
    UnitResult,
)
from robust_eval.core.verdict_bits import bits_text, parse_bits
from robust_eval.results import (
    AttackRecord,
    ColumnRecord,
    Count,
    WorstCase,
)


@dataclass(frozen=True)
class Stage:
    """A finished stage of a cascade: one attack, with the results of its units in order."""

    attack: AttackSpec
    library: str
    citation: str
    note: str
    results: tuple[UnitResult, ...]

    def broken(self) -> Ints:
        """Indices of the examples that this attack broke."""
        return concatenate([r.verdicts.indices[~r.verdicts.robust] for r in self.results])


def concatenate(arrays: Sequence[Ints]) -> Ints:
    """Concatenate index arrays; an empty array for none."""
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)


def clean_bits(results: Sequence[UnitResult], n: int) -> Bools:
    """Which examples are classified correctly without an attack, (n,) bool."""
    bits = np.zeros(n, dtype=np.bool_)
    for result in results:
        bits[result.verdicts.indices] = result.verdicts.robust
    return bits


def column_bits(clean: Bools, stages: Sequence[Stage]) -> Bools:
    """Which examples are robust under a column: correct on the clean image, broken by no stage. (n,) bool."""
    bits = clean.copy()
    for stage in stages:
        bits[stage.broken()] = False
    return bits


def worst_bits(columns: Mapping[str, Bools]) -> Bools:
    """Which examples are robust under every column, (n,) bool: an AND per example."""
    worst: Bools = np.logical_and.reduce(list(columns.values()))
    return worst


def _count(bits: Bools, results: Sequence[UnitResult]) -> Count:
    n, n_robust = len(bits), int(bits.sum())
    return Count(
        accuracy=n_robust / n,
        n=n,
        n_robust=n_robust,
        ci95=wilson(n_robust, n),
        robust_bits=bits_text(bits),
        forwards=sum(r.forwards for r in results),
        backwards=sum(r.backwards for r in results),
        seconds=round(sum(r.seconds for r in results), 3),
    )


def _attack_record(stage: Stage) -> AttackRecord:
    verdicts = [r.verdicts for r in stage.results]
    return AttackRecord(
        id=stage.attack.id,
        family=stage.attack.family,
        version=stage.attack.version,
        library=stage.library,
        citation=stage.citation,
        params=dict(stage.attack.params),
        note=stage.note,
        n_attacked=sum(len(v.indices) for v in verdicts),
        n_broken=sum(int((~v.robust).sum()) for v in verdicts),
        n_invalid=sum(int((~v.valid).sum()) for v in verdicts),
        forwards=sum(r.forwards for r in stage.results),
        backwards=sum(r.backwards for r in stage.results),
        seconds=round(sum(r.seconds for r in stage.results), 3),
    )


def clean_column(title: str, bits: Bools, results: Sequence[UnitResult]) -> ColumnRecord:
    """The record of the clean column."""
    nonfinite = sum(int((~r.verdicts.finite).sum()) for r in results)
    return ColumnRecord(
        **_count(bits, results).model_dump(), title=title, n_invalid=0, n_nonfinite=nonfinite, attacks=()
    )


def attack_column(column: Column, bits: Bools, stages: Sequence[Stage]) -> ColumnRecord:
    """The record of a column with attacks."""
    results = [result for stage in stages for result in stage.results]
    attacks = tuple(_attack_record(stage) for stage in stages)
    return ColumnRecord(
        **_count(bits, results).model_dump(),
        title=column.title,
        n_invalid=sum(attack.n_invalid for attack in attacks),
        n_nonfinite=sum(int((~r.verdicts.finite).sum()) for r in results),
        attacks=attacks,
    )


def worst_case(columns: Mapping[str, ColumnRecord]) -> WorstCase:
    """The record of the worst case over columns."""
    bits = worst_bits({name: parse_bits(column.robust_bits) for name, column in columns.items()})
    count = _count(bits, [])
    return WorstCase(
        **{
            **count.model_dump(),
            "forwards": sum(c.forwards for c in columns.values()),
            "backwards": sum(c.backwards for c in columns.values()),
            "seconds": round(sum(c.seconds for c in columns.values()), 3),
        },
        columns=tuple(columns),
    )


def labels_digest(labels: Ints) -> str:
    """SHA-256 of the labels as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


__all__ = [
    "CLEAN",
    "Stage",
    "attack_column",
    "bits_text",
    "clean_bits",
    "clean_column",
    "column_bits",
    "concatenate",
    "labels_digest",
    "parse_bits",
    "worst_bits",
    "worst_case",
]
