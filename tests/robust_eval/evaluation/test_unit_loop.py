"""The waves of a run, against a worker whose verdicts are known beforehand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_plan import a_request

from robust_eval.core.types import UnitResult, Verdicts, WorkUnit
from robust_eval.evaluation import unit_loop
from robust_eval.evaluation.display import Silent
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.store import MemoryStore
from robust_eval.results import flags, summary

# Which attack breaks which of the ten examples; 9 is a clean mistake.
BREAKS = {"fgsm": {0}, "pgd-20": {0, 1}, "apgd-ce": {1, 2}, "apgd-t": {3}, "fab-t": set[int](), "square": {4}}


class Scripted:
    """Breaks what :data:`BREAKS` says and remembers what it was asked."""

    def __init__(self) -> None:
        self.units: list[WorkUnit] = []

    def run(self, unit: WorkUnit) -> UnitResult:
        self.units.append(unit)
        indices = np.array(unit.indices)
        broken = {9} if unit.attack is None else BREAKS[unit.attack.id]
        robust = np.array([int(index) not in broken for index in indices])
        yes = np.ones(len(indices), dtype=bool)
        verdicts = Verdicts(indices, indices, indices, indices * 0.0, yes, yes, yes, robust)
        evidence = np.full((int((~robust).sum()), 1, 1, 1), 0.5, dtype=np.float32)
        return UnitResult(verdicts, evidence, 2 * len(indices), len(indices), 0.5)


def columns(
    suite: str, store: MemoryStore | None = None, worker: Scripted | None = None
) -> dict[str, unit_loop.Finished]:
    request = a_request(suite=suites.load(suite))
    return dict(unit_loop.run(request, worker or Scripted(), store or MemoryStore(), Silent()))


def test_columns_count_what_their_cascade_broke() -> None:
    found = columns("fgsm,pgd-20,aa")
    bits = {name: summary.bits_text(column.bits) for name, column in found.items()}
    assert bits == {
        "clean": "1111111110",
        "fgsm": "0111111110",
        "pgd-20": "0011111110",
        "aa": "1000011110",
    }
    assert [(a.id, a.n_attacked, a.n_broken) for a in found["aa"].record.attacks] == [
        ("apgd-ce", 9, 2),
        ("apgd-t", 7, 1),
        ("fab-t", 6, 0),
        ("square", 6, 1),
    ]


def test_worst_case_is_the_and_per_example_not_the_smallest_accuracy() -> None:
    records = {name: column.record for name, column in columns("fgsm,pgd-20,aa").items()}
    worst = summary.worst_case(records)
    assert worst.robust_bits == "0000011110"
    assert worst.n_robust == 4 < min(record.n_robust for record in records.values())


def test_clean_mistakes_are_never_attacked_and_survivors_are_repacked() -> None:
    worker = Scripted()
    columns("aa", worker=worker)
    attacked = [(unit.attack.id, unit.indices) for unit in worker.units if unit.attack is not None]
    assert attacked[:3] == [("apgd-ce", (0, 1, 2, 3)), ("apgd-ce", (4, 5, 6, 7)), ("apgd-ce", (8,))]
    assert [indices for name, indices in attacked if name == "apgd-t"] == [(0, 3, 4, 5), (6, 7, 8)]


def test_stored_units_are_not_done_again() -> None:
    store, worker = MemoryStore(), Scripted()
    first = columns("pgd-20,aa", store, worker)
    done = len(worker.units)
    again = columns("pgd-20,aa", store, worker)
    assert len(worker.units) == done
    assert {n: c.record for n, c in again.items()} == {n: c.record for n, c in first.items()}


@pytest.mark.parametrize("stop_after", range(1, 14, 3))
def test_stopping_anywhere_and_going_on_gives_the_same(stop_after: int) -> None:
    store = MemoryStore()
    whole = columns("fgsm,pgd-20,aa")

    class Stopping(Scripted):
        def run(self, unit: WorkUnit) -> UnitResult:
            if len(self.units) == stop_after:
                raise KeyboardInterrupt
            return super().run(unit)

    with pytest.raises(KeyboardInterrupt):
        columns("fgsm,pgd-20,aa", store, Stopping())
    resumed = columns("fgsm,pgd-20,aa", store)
    assert {n: c.record for n, c in resumed.items()} == {n: c.record for n, c in whole.items()}


def test_order_of_columns_changes_nothing_but_the_order() -> None:
    forward, backward = columns("fgsm,pgd-20,aa"), columns("aa,pgd-20,fgsm")
    assert {n: c.record for n, c in forward.items()} == {n: c.record for n, c in backward.items()}


def test_union_of_shared_units_costs_nothing_twice() -> None:
    store, worker = MemoryStore(), Scripted()
    columns("pgd-20", store, worker)
    asked = len(worker.units)
    columns("fgsm,pgd-20", store, worker)
    new = worker.units[asked:]
    assert {unit.attack.id for unit in new if unit.attack is not None} == {"fgsm"}


def count(bits: str) -> summary.ColumnRecord:
    array = summary.parse_bits(bits)
    return replace_bits(columns("clean")["clean"].record, array)


def replace_bits(record: summary.ColumnRecord, bits: np.ndarray) -> summary.ColumnRecord:
    n = len(bits)
    return record.model_copy(
        update={
            "robust_bits": summary.bits_text(bits),
            "n": n,
            "n_robust": int(bits.sum()),
            "accuracy": bits.sum() / n,
            "ci95": summary.wilson(int(bits.sum()), n),
        }
    )


def flag_ids(**texts: str) -> set[str]:
    records = {name.replace("_", "-"): count(bits) for name, bits in texts.items()}
    return {flag.id for flag in flags.from_columns(records, 10)}


def test_flags_of_the_numbers() -> None:
    clean, half = "1" * 1000, "1" * 500 + "0" * 500
    assert flag_ids(clean=clean, fgsm=half, pgd_20=half) == set()
    assert flag_ids(clean=clean, pgd_20=half, pgd_100=half[3:] + "111") == set(), "3 of 1000 is noise"
    assert flag_ids(clean="1" * 100 + "0" * 900) == {"collapsed"}
    assert "weaker-beats-stronger" in flag_ids(clean=clean, fgsm=half, pgd_20=clean)
    assert flag_ids(clean=clean, fgsm=half, pgd_20=half, spsa="0" * 2 + half[2:]) == {
        "black-box-beats-white-box"
    }
    assert flag_ids(clean=clean, fgsm=half, pgd_20=half, spsa="0" + half[1:]) == set()


def test_square_finding_what_gradients_missed_is_flagged() -> None:
    found = columns("aa")
    record = found["aa"].record
    square = record.attacks[3].model_copy(update={"n_broken": 5})
    records = {
        "clean": found["clean"].record,
        "aa": record.model_copy(update={"attacks": (*record.attacks[:3], square)}),
    }
    assert "black-box-beats-white-box" in {flag.id for flag in flags.from_columns(records, 10)}


def test_invalid_and_non_finite_images_block_the_row() -> None:
    record = columns("clean")["clean"].record
    bad = {"clean": record, "fgsm": record.model_copy(update={"n_invalid": 1, "n_nonfinite": 2})}
    found = {flag.id: flag.severity for flag in flags.from_columns(bad, 10)}
    assert {"outside-ball-or-box", "non-finite-under-attack"} <= set(found)
    assert {found["outside-ball-or-box"], found["non-finite-under-attack"]} == {flags.BLOCKS}


def test_a_requests_identity_is_json_able() -> None:
    assert replace(a_request(), seed=3).key != a_request().key
