"""Flags recomputed from a result file, to detect flags that were removed from it."""

from __future__ import annotations

from robust_eval.results import EvalResult, FlagRecord
from robust_eval.results.flags.from_columns import from_columns
from robust_eval.results.flags.from_diagnosis import from_diagnosis
from robust_eval.results.flags.from_record import from_record, from_search, from_second_judgement
from robust_eval.results.flags.rules import BLOCKS, distinct


def from_result(result: EvalResult) -> tuple[FlagRecord, ...]:
    """All flags that can be computed from the result alone; it must have a clean column."""
    found = [
        *from_columns(result.columns, result.checkpoint.classes),
        *from_record(result.checkpoint, result.data, result.columns["clean"]),
        *(from_search(result.search) if result.search is not None else ()),
        *from_second_judgement(result.second_judgement),
        *(from_diagnosis(result.diagnosis) if result.diagnosis is not None else ()),
    ]
    return distinct(found)


def blocking(result: EvalResult) -> tuple[FlagRecord, ...]:
    """Flags that block ranking, including any that the record omits but its numbers imply."""
    raised = distinct((*result.flags, *from_result(result)))
    return tuple(flag for flag in raised if flag.severity == BLOCKS)


def not_recorded(result: EvalResult, raised: tuple[FlagRecord, ...]) -> list[str]:
    """Raised flags that are missing from the record or recorded with another severity, with their figures."""
    recorded = {(flag.id, flag.severity) for flag in result.flags}
    return [
        f"{flag.id} ({flag.severity}: {flag.figure})"
        for flag in raised
        if (flag.id, flag.severity) not in recorded
    ]
