"""Does the evaluator catch what it must, on this machine? Planted models, attacks, files; closed forms.

Every case is a lie that an evaluation has been fooled by somewhere, or an honest model; :func:`cases` is
the table that the tests run too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from robust_eval.verification.selftest import (
    cases_closed_form,
    cases_diagnosis,
    cases_probes,
    cases_run,
    cases_unmodified,
    planted_results,
)
from robust_eval.verification.selftest.case import Case, CaseOutcome, run

__all__ = ["Case", "Outcome", "cases", "outcomes", "run"]


def cases() -> tuple[Case, ...]:
    """Cheap ones first."""
    return tuple(
        case
        for module in (
            planted_results,
            cases_probes,
            cases_closed_form,
            cases_run,
            cases_diagnosis,
            cases_unmodified,
        )
        for case in module.cases()
    )


def outcomes(
    chosen: Sequence[Case], begin: Callable[[Case], object] = lambda case: None
) -> Iterator[CaseOutcome]:
    """Run them one by one; ``begin`` is told before each."""
    for case in chosen:
        begin(case)
        yield run(case)
