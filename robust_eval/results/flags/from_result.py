"""Flags recomputed from a result file, to detect flags that were removed from it."""

from __future__ import annotations

from robust_eval.results import EvalResult, FlagRecord
from robust_eval.results.consistency import contradictions
from robust_eval.results.flags.from_columns import from_columns
from robust_eval.results.flags.from_diagnosis import from_diagnosis
from robust_eval.results.flags.from_record import from_record, from_search, from_second_judgement
from robust_eval.results.flags.rule import BLOCKS
from robust_eval.results.flags.rules import DIAGNOSIS, RULES, distinct

_COUNTED = (
    "robust-above-clean",
    "weaker-beats-stronger",
    "black-box-beats-white-box",
    "pgd-far-above-autoattack",
    "attack-without-effect",
    "too-few-examples",
    *DIAGNOSIS,
)
"""Flags that follow from the counts in a result and from nothing else."""


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


def current(result: EvalResult) -> tuple[FlagRecord, ...]:
    """The flags to show for a result, as the present rules raise them.

    Flags that follow from its counts are computed again: the rule may have changed since the result was
    written. The others are as recorded, and those that block ranking remain, because they remain in the file.
    A result that contradicts itself is shown as it is.
    """
    if contradictions(result):
        return result.flags
    raised = {flag.id: flag for flag in from_result(result)}
    recorded = [
        raised.get(flag.id, _with_present_severity(flag))
        for flag in result.flags
        if flag.id in raised or flag.id not in _COUNTED or flag.severity == BLOCKS
    ]
    return distinct((*recorded, *raised.values()))


def outdated(result: EvalResult) -> tuple[str, ...]:
    """Ids of recorded flags that the present rules no longer raise for the same counts."""
    shown = {flag.id for flag in current(result)}
    return tuple(sorted({flag.id for flag in result.flags} - shown))


def blocking(result: EvalResult) -> tuple[FlagRecord, ...]:
    """Flags that block ranking, including any that the record omits, or lists as a warning."""
    found = (*map(_with_present_severity, result.flags), *from_result(result))
    return distinct(flag for flag in found if flag.severity == BLOCKS)


def _with_present_severity(flag: FlagRecord) -> FlagRecord:
    """The flag, as one that blocks ranking if its present rule says so.

    Flags that follow from counts are left as recorded, because the present rules compute them again.
    """
    rule = RULES.get(flag.id)
    if rule is None or rule.severity != BLOCKS or flag.id in _COUNTED:
        return flag
    return flag.model_copy(update={"severity": BLOCKS})


def not_recorded(result: EvalResult, raised: tuple[FlagRecord, ...]) -> list[str]:
    """Raised flags that are missing from the record or recorded with another severity, with their figures."""
    recorded = {(flag.id, flag.severity) for flag in result.flags}
    return [
        f"{flag.id} ({flag.severity}: {flag.figure})"
        for flag in raised
        if (flag.id, flag.severity) not in recorded
    ]
