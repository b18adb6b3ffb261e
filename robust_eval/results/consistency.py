"""Relations that must hold between the numbers of one result; checked without model or data.

A result that violates one of them was edited, or written by faulty code.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from robust_eval.core.errors import UserError
from robust_eval.core.request import CLEAN
from robust_eval.core.statistics import wilson
from robust_eval.core.threat import parse_fraction
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.results import ColumnRecord, Count, EvalResult

# Intervals are stored with all digits; the last one may differ between machines.
_ROUNDING = 1e-9


def contradictions(result: EvalResult) -> list[str]:
    """One message for each contradiction within the record; empty for an unmodified result."""
    found = [*_repeated_fields(result)]
    for name, column in result.columns.items():
        found += _count(name, column, result.data.n)
    found += _count("worst case", result.worst_case, result.data.n)
    if found or CLEAN not in result.columns:
        # The checks below need bits of equal length.
        return found
    for name, column in result.columns.items():
        found += _column(name, column, result.columns[CLEAN])
    return [*found, *_worst_case(result), *_cost_sums(result)]


def _repeated_fields(result: EvalResult) -> Iterator[str]:
    """Fields that repeat each other: columns, status, class names, epsilon."""
    if CLEAN not in result.columns:
        yield "there is no clean column"
    planned = (CLEAN, *(name for name in result.suite.columns if name != CLEAN))
    present = tuple(name for name in planned if name in result.columns)
    if tuple(result.columns) != present:
        yield "its columns are not those of its suite"
    missing = tuple(name for name in planned if name not in result.columns and name != CLEAN)
    if tuple(name for name in result.missing if name != CLEAN) != missing:
        yield f"its list of missing columns is not {list(missing)}"
    if (result.status == "partial") != bool(missing):
        yield f"its status is {result.status}, but {len(missing)} columns of its suite are missing"
    if result.worst_case.columns != tuple(result.columns):
        yield "its worst case is not over all its columns"
    if result.data.class_names and len(result.data.class_names) != result.checkpoint.classes:
        yield (f"the model has {result.checkpoint.classes} classes, the data {len(result.data.class_names)}")
    if not _same_eps(result):
        yield f"eps {result.threat.eps} is not {result.threat.eps_value}"


def _same_eps(result: EvalResult) -> bool:
    try:
        return float(parse_fraction(result.threat.eps, "eps")) == result.threat.eps_value
    except UserError:
        return False


def _count(name: str, count: Count, n: int) -> Iterator[str]:
    robust = count.robust_bits.count("1")
    if count.n != n:
        yield f"{name}: n is {count.n}, the slice has {n} images"
    if len(count.robust_bits) != count.n:
        yield f"{name}: {len(count.robust_bits)} verdict bits for {count.n} images"
    if count.n_robust != robust:
        yield f"{name}: n_robust is {count.n_robust}, its verdict bits have {robust} ones"
    if count.n_robust > count.n:
        yield f"{name}: {count.n_robust} of {count.n} images are robust"
    elif count.accuracy != count.n_robust / count.n:
        yield f"{name}: accuracy {count.accuracy:.6g} is not {count.n_robust}/{count.n}"
    elif not np.allclose(count.ci95, wilson(count.n_robust, count.n), rtol=0, atol=_ROUNDING):
        yield f"{name}: its interval is not the 95% Wilson interval of {count.n_robust}/{count.n}"


def _column(name: str, column: ColumnRecord, clean: ColumnRecord) -> Iterator[str]:
    if name == CLEAN:
        if column.attacks:
            yield "the clean column has attacks"
        return
    if not column.attacks:
        yield f"{name}: no attack is recorded"
        return
    above = int((parse_bits(column.robust_bits) & ~parse_bits(clean.robust_bits)).sum())
    if above:
        yield f"{name}: {above} images are robust but wrong without an attack"
    broken = clean.n_robust - column.n_robust
    if not above and sum(attack.n_broken for attack in column.attacks) != broken:
        yield f"{name}: its attacks broke {sum(a.n_broken for a in column.attacks)}, its bits {broken}"
    if column.attacks[0].n_attacked != clean.n_robust:
        yield (
            f"{name}: {column.attacks[0].n_attacked} images were attacked, but {clean.n_robust} are correct "
            "without an attack"
        )
    for before, after in pairwise(column.attacks):
        if after.n_attacked != before.n_attacked - before.n_broken:
            yield f"{name}: {after.id} did not attack the examples left by {before.id}"
    if column.n_invalid != sum(attack.n_invalid for attack in column.attacks):
        yield f"{name}: its count of invalid images is not the sum over its attacks"


def _worst_case(result: EvalResult) -> Iterator[str]:
    columns = [parse_bits(column.robust_bits) for column in result.columns.values()]
    worst = parse_bits(result.worst_case.robust_bits)
    if not np.array_equal(worst, np.logical_and.reduce(columns)):
        yield "the worst case is not the AND of its columns, example by example"


def _cost_sums(result: EvalResult) -> Iterator[str]:
    """Passes and seconds must add up. Seconds are rounded to milliseconds at each level."""
    columns, worst = result.columns, result.worst_case
    for what in ("forwards", "backwards"):
        if getattr(worst, what) != sum(getattr(column, what) for column in columns.values()):
            yield f"the worst case's {what} are not the sum over its columns"
        for name, column in columns.items():
            if column.attacks and getattr(column, what) != sum(getattr(a, what) for a in column.attacks):
                yield f"{name}: its {what} are not the sum over its attacks"
    if abs(worst.seconds - sum(column.seconds for column in columns.values())) > 0.01 * (1 + len(columns)):
        yield "the worst case's seconds are not the sum over its columns"
