"""Compare what a result records with the suite that it names.

A result is of the suite that it names if its columns, their order and titles, and the id, family, library and
parameters of every attack are those of this release's suite of that version. Otherwise it is ``custom``.
Versions of a suite or of an attack that this release does not have cannot be compared: the label says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from robust_eval import attacks
from robust_eval.core import discovery
from robust_eval.core.request import digest
from robust_eval.core.text import printable
from robust_eval.core.types import AttackSpec, Column, Suite
from robust_eval.evaluation.planning import suites
from robust_eval.results import AttackRecord, ColumnRecord, EvalResult

CUSTOM = "custom"


@dataclass(frozen=True)
class RecordedSuite:
    """The suite of a result, after the comparison."""

    label: str
    """``full v1``, ``custom``, ``custom (claims full v1)``, ``full v7 (unknown suite version)`` or
    ``full v1 (unknown version of pgd-20)``."""
    computed: str
    """Digest of the columns and their attacks, in any order: equal for results that computed the same."""
    claim: str = ""
    """``full v1`` if the result names a suite of this release."""
    differences: tuple[str, ...] = ()
    """How the columns differ from those of the claimed suite, one phrase each; if any, the claim is false."""
    unknown: str = ""
    """Which version this release does not have; empty if everything could be compared."""

    @property
    def problem(self) -> str:
        """Why the claim is false, as the end of a sentence; empty if it is not."""
        if not self.differences:
            return ""
        more = f" (and {len(self.differences) - 1} more)" if len(self.differences) > 1 else ""
        return f"names suite {self.claim}, but {self.differences[0]}{more}"


def identify(result: EvalResult) -> RecordedSuite:
    """Compare the columns of a result with the suite that it names."""
    name, version = result.suite.name, result.suite.version
    computed = _computed(result)
    if name not in discovery.config_ids("suites"):
        return RecordedSuite(CUSTOM, computed)
    claim, suite = f"{name} v{version}", _suite(name)
    if version != suite.version:
        unknown = "unknown suite version"
        return RecordedSuite(f"{claim} ({unknown})", computed, claim, unknown=unknown)
    found = tuple(differences(result, suite))
    if found:
        return RecordedSuite(f"{CUSTOM} (claims {claim})", computed, claim, found)
    others = ", ".join(other_versions(result, suite))
    unknown = f"unknown version of {others}" if others else ""
    return RecordedSuite(f"{claim} ({unknown})" if unknown else claim, computed, claim, unknown=unknown)


@cache
def _suite(name: str) -> Suite:
    """A suite of this release, read once: a board has many rows."""
    return suites.load(name)


def differences(result: EvalResult, suite: Suite) -> Iterator[str]:
    """How the columns of a result differ from those of a suite; unfinished columns do not.

    Attacks of another version are not compared further: their parameters may have been others.
    """
    wanted = {column.id: column for column in suite.columns}
    planned = tuple(dict.fromkeys((*result.suite.columns, *result.columns)))
    present = result.columns if result.status == "complete" else planned
    for name in wanted:
        if name not in planned or name not in present:
            yield f"lacks column {name}"
    for name in planned:
        if name not in wanted:
            yield f"has column {printable(name, 40)}, which is not in {suite.name}"
    if set(planned) == set(wanted) and result.suite.columns != tuple(wanted):
        yield f"does not list its columns in the order of {suite.name}"
    for name, column in wanted.items():
        if name in result.columns:
            yield from _column_differences(result.columns[name], column)


def _column_differences(record: ColumnRecord, column: Column) -> Iterator[str]:
    if record.title != column.title:
        yield f"has the title {printable(record.title, 40)} for column {column.id}, not {column.title}"
    if [attack.id for attack in record.attacks] != [attack.id for attack in column.attacks]:
        found = ", ".join(printable(attack.id, 40) for attack in record.attacks) or "none"
        yield f"has in column {column.id} the attacks {found}"
        return
    for attack, wanted in zip(record.attacks, column.attacks, strict=True):
        changed = _attack_difference(attack, wanted)
        if changed:
            yield f"has {changed} in attack {wanted.id} of column {column.id}"


def _attack_difference(attack: AttackRecord, wanted: AttackSpec) -> str:
    if attack.family != wanted.family:
        return f"the family {printable(attack.family, 40)} instead of {wanted.family}"
    if attack.version != wanted.version:
        return ""
    library = attacks.family(wanted.family).LIBRARY
    if attack.library.rpartition(" ")[0] != library:
        return f"the library {printable(attack.library, 60)} instead of {library}"
    params = dict(wanted.params)
    for name in sorted(attack.params.keys() | params.keys()):
        # As JSON, in which 1, 1.0 and true differ.
        ours, theirs = (json.dumps(table.get(name)) for table in (attack.params, params))
        if name not in params or name not in attack.params or ours != theirs:
            return f"{printable(name, 40)} {printable(ours, 40)} instead of {theirs}"
    return ""


def other_versions(result: EvalResult, suite: Suite) -> list[str]:
    """Ids of the suite's attacks that have another version in the result than in this release."""
    return list(
        dict.fromkeys(
            wanted.id
            for column in suite.columns
            if column.id in result.columns
            for attack, wanted in zip(result.columns[column.id].attacks, column.attacks, strict=False)
            if attack.version != wanted.version
        )
    )


def _computation(attack: AttackRecord) -> list[Any]:
    """What an attack computed; the library of one that is not part of this package is its code."""
    own = [attack.family, attack.version, attack.params]
    return own if attacks.is_own(attack.family) else [*own, attack.library]


def _computed(result: EvalResult) -> str:
    columns = {
        name: [column.title, [_computation(attack) for attack in column.attacks]]
        for name, column in result.columns.items()
    }
    return digest({"columns": columns, "missing": sorted(set(result.suite.columns) - set(columns))})
