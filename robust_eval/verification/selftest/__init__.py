"""The self-test of the evaluator: planted defects in models, attacks and results, and closed-form accuracies.

Each case plants a defect that has led evaluations to wrong results, or evaluates an unmodified model.
:func:`cases` is also run by the tests. May import ``core``, ``results``, ``models``, ``attacks`` and
``evaluation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from robust_eval.verification.selftest import (
    cases_closed_form,
    cases_diagnosis,
    cases_loading,
    cases_plants,
    cases_probes,
    cases_run,
    cases_unmodified,
    planted_results,
)
from robust_eval.verification.selftest.case import Case, CaseOutcome, run_case

__all__ = ["Case", "CaseOutcome", "cases", "run_case", "run_cases"]


def cases() -> tuple[Case, ...]:
    """All cases, fast ones first."""
    return tuple(
        case
        for module in (
            planted_results,
            cases_probes,
            cases_closed_form,
            cases_loading,
            cases_run,
            cases_plants,
            cases_diagnosis,
            cases_unmodified,
        )
        for case in module.cases()
    )


def run_cases(
    chosen: Sequence[Case], begin: Callable[[Case], object] = lambda case: None
) -> Iterator[CaseOutcome]:
    """Run cases one by one; ``begin`` is called before each."""
    for case in chosen:
        begin(case)
        yield run_case(case)
