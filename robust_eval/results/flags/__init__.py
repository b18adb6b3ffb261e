"""Flags: warnings about the validity of a result, raised by rules over measured figures.

A rule yields the id of a flag and the measured figure; :data:`RULES` holds severity, threshold and advice.
May import ``core`` and ``results``.
"""

from robust_eval.results.flags.from_columns import from_columns, from_perturbation_size
from robust_eval.results.flags.from_diagnosis import from_diagnosis
from robust_eval.results.flags.from_model import RANDOM_GRADIENTS, RANDOM_OUTPUTS, from_probe
from robust_eval.results.flags.from_record import (
    COPY_DIFFERENCE,
    from_changes,
    from_overlap,
    from_record,
    from_search,
    from_second_judgement,
)
from robust_eval.results.flags.from_result import blocking, current, from_result, not_recorded, outdated
from robust_eval.results.flags.rule import BLOCKS, WARNS, Finding, Rule
from robust_eval.results.flags.rules import DIAGNOSIS, RULES, distinct, records

__all__ = [
    "BLOCKS",
    "COPY_DIFFERENCE",
    "DIAGNOSIS",
    "RANDOM_GRADIENTS",
    "RANDOM_OUTPUTS",
    "RULES",
    "WARNS",
    "Finding",
    "Rule",
    "blocking",
    "current",
    "distinct",
    "from_changes",
    "from_columns",
    "from_diagnosis",
    "from_overlap",
    "from_perturbation_size",
    "from_probe",
    "from_record",
    "from_result",
    "from_search",
    "from_second_judgement",
    "not_recorded",
    "outdated",
    "records",
]
