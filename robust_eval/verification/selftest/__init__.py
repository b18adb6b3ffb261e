"""Does the evaluator catch what it must, on this machine? Planted models, attacks, files; closed forms.

Every case is a lie that an evaluation has been fooled by somewhere, or an honest model; :func:`cases` is
the table that the tests run too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from robust_eval.verification.selftest import (
    cases_closed_form as exact,
)
from robust_eval.verification.selftest import (
    cases_diagnosis as diagnosed,
)
from robust_eval.verification.selftest import (
    cases_probes as probed,
)
from robust_eval.verification.selftest import (
    cases_run as judged,
)
from robust_eval.verification.selftest import (
    cases_unmodified as honest,
)
from robust_eval.verification.selftest import (
    planted_results as numbers,
)
from robust_eval.verification.selftest.case import Case, Outcome, run

__all__ = ["Case", "Outcome", "cases", "outcomes", "run"]


def cases() -> tuple[Case, ...]:
    """Cheap ones first."""
    return tuple(
        case for module in (numbers, probed, exact, judged, diagnosed, honest) for case in module.cases()
    )


def outcomes(
    chosen: Sequence[Case], begin: Callable[[Case], object] = lambda case: None
) -> Iterator[Outcome]:
    """Run them one by one; ``begin`` is told before each."""
    for case in chosen:
        begin(case)
        yield run(case)
