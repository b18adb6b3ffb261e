"""The scheduler with scripted verdicts; accuracies, worst case and flags computed from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.scripted_attacks import ScriptedHost, finished_columns, make_request, run_scripted

from robust_eval.core.request import Request
from robust_eval.core.types import UnitResult, WorkUnit
from robust_eval.evaluation.executors.display import SilentDisplay
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.run_spec import RunSpec
from robust_eval.evaluation.executors.scheduler import Scheduler
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.cascade import FinishedColumn
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.progress.tables import stage_text
from robust_eval.results import flags, summary


def request_for(suite: str) -> Request:
    return make_request(suite=suites.load(suite))


def columns(
    suite: str, host: ScriptedHost | None = None, folder: Path | None = None
) -> dict[str, FinishedColumn]:
    return finished_columns(run_scripted(host or ScriptedHost(request_for(suite)), folder))


def test_a_column_counts_the_images_broken_by_its_cascade() -> None:
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


def test_the_worst_case_is_taken_per_example() -> None:
    records = {name: column.record for name, column in columns("fgsm,pgd-20,aa").items()}
    worst = summary.worst_case(records)
    assert worst.robust_bits == "0000011110"
    assert worst.n_robust == 4 < min(record.n_robust for record in records.values())


def test_misclassified_images_are_not_attacked_and_survivors_are_repacked() -> None:
    host = ScriptedHost(request_for("aa"))
    columns("aa", host)
    attacked = [(unit.attack.id, unit.indices) for unit in host.units if unit.attack is not None]
    assert attacked[:3] == [("apgd-ce", (0, 1, 2, 3)), ("apgd-ce", (4, 5, 6, 7)), ("apgd-ce", (8,))]
    assert [indices for name, indices in attacked if name == "apgd-t"] == [(0, 3, 4, 5), (6, 7, 8)]


def test_stored_units_are_not_computed_again(tmp_path: Path) -> None:
    host = ScriptedHost(request_for("pgd-20,aa"))
    first = columns("", host, tmp_path / "run")
    done = len(host.units)
    again = columns("", host, tmp_path / "run")
    assert len(host.units) == done
    assert {n: c.record for n, c in again.items()} == {n: c.record for n, c in first.items()}


@pytest.mark.parametrize("stop_after", range(1, 14, 3))
def test_an_interruption_after_any_unit_does_not_change_the_result(stop_after: int, tmp_path: Path) -> None:
    uninterrupted = columns("fgsm,pgd-20,aa")

    class Stopping(ScriptedHost):
        def run(self, unit: WorkUnit) -> UnitResult:
            if len(self.units) == stop_after:
                raise KeyboardInterrupt
            return super().run(unit)

    with pytest.raises(KeyboardInterrupt):
        columns("", Stopping(request_for("fgsm,pgd-20,aa")), tmp_path / "run")
    rest = ScriptedHost(request_for("fgsm,pgd-20,aa"))
    resumed = columns("", rest, tmp_path / "run")
    assert {n: c.record for n, c in resumed.items()} == {n: c.record for n, c in uninterrupted.items()}
    total = ScriptedHost(request_for("fgsm,pgd-20,aa"))
    columns("", total)
    assert len(rest.units) == len(total.units) - stop_after


def test_the_order_of_columns_does_not_change_their_results() -> None:
    forward, backward = columns("fgsm,pgd-20,aa"), columns("aa,pgd-20,fgsm")
    assert {n: c.record for n, c in forward.items()} == {n: c.record for n, c in backward.items()}


def test_a_unit_of_two_runs_is_computed_once() -> None:
    host = ScriptedHost(request_for("pgd-20"), request_for("fgsm,pgd-20"))
    runs = run_scripted(host)
    keys = [unit.key for unit in host.units]
    assert len(keys) == len(set(keys))
    assert [run.result is not None and list(run.result.columns) for run in runs] == [
        ["clean", "pgd-20"],
        ["clean", "fgsm", "pgd-20"],
    ]


def test_one_worker_follows_the_order_of_the_suite() -> None:
    """So the cheap columns of a long run are finished first."""
    host = ScriptedHost(request_for("fgsm,aa,pgd-20"))
    run_scripted(host)
    order = list(dict.fromkeys("clean" if unit.attack is None else unit.attack.id for unit in host.units))
    assert order == ["clean", "fgsm", "apgd-ce", "apgd-t", "fab-t", "square", "pgd-20"]


def test_the_progress_of_a_shard_refers_to_its_examples(tmp_path: Path) -> None:
    asked = replace(request_for("fgsm"), shards=2)
    spec = RunSpec(source=EvaluationOptions(), name="m.pt", folder=lambda _request: tmp_path / "run", shard=0)
    (run,) = Scheduler([spec], LocalExecutor(ScriptedHost(asked)), SilentDisplay()).work()
    assert run.running is not None
    assert run.running.n == 5
    texts = [stage_text(stage, run.running) for stage in run.running.stages]
    assert texts[0] == "clean: 5/5 done, 0 broken, robust accuracy 100.00%"
    assert texts[1] == "fgsm: 5/5 done, 1 broken, robust accuracy 80.00%"


def test_progress_counts_every_example_of_a_stage_once(tmp_path: Path) -> None:
    for timed in (9, 0):
        (run,) = run_scripted(ScriptedHost(request_for("fgsm,aa")), tmp_path / "run")
        assert run.running is not None
        stages = {stage.attack: stage for stage in run.running.stages}
        assert (stages["fgsm"].attacked, stages["fgsm"].done, stages["fgsm"].broken) == (9, 9, 1)
        assert stages["fgsm"].timed == timed, "stored units must not count towards the speed of the run"
        assert stages["square"].done == stages["square"].attacked == 6


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


def test_flags_computed_from_verdicts() -> None:
    clean, half = "1" * 1000, "1" * 500 + "0" * 500
    assert flag_ids(clean=clean, fgsm=half, pgd_20=half) == set()
    assert flag_ids(clean=clean, pgd_20=half, pgd_100=half[3:] + "111") == set(), "3 of 1000 is noise"
    assert flag_ids(clean="1" * 100 + "0" * 900) == {"collapsed"}
    assert "weaker-beats-stronger" in flag_ids(clean=clean, fgsm=half, pgd_20=clean)
    assert flag_ids(clean=clean, fgsm=half, pgd_20=half, spsa="0" * 20 + half[20:]) == {
        "black-box-beats-white-box"
    }
    assert flag_ids(clean=clean, fgsm=half, pgd_20=half, spsa="0" * 5 + half[5:]) == set()


def test_square_breaking_images_that_gradient_attacks_missed_is_flagged() -> None:
    found = columns("aa")
    record = found["aa"].record
    square = record.attacks[3].model_copy(update={"n_broken": 5})
    records = {
        "clean": found["clean"].record,
        "aa": record.model_copy(update={"attacks": (*record.attacks[:3], square)}),
    }
    assert "black-box-beats-white-box" in {flag.id for flag in flags.from_columns(records, 10)}


def test_invalid_images_and_non_finite_logits_block_ranking() -> None:
    record = columns("clean")["clean"].record
    bad = {"clean": record, "fgsm": record.model_copy(update={"n_invalid": 1, "n_nonfinite": 2})}
    found = {flag.id: flag.severity for flag in flags.from_columns(bad, 10)}
    assert {"outside-ball-or-box", "non-finite-under-attack"} <= set(found)
    assert {found["outside-ball-or-box"], found["non-finite-under-attack"]} == {flags.BLOCKS}


def test_the_key_of_a_request_depends_on_the_seed() -> None:
    assert replace(make_request(), seed=3).key != make_request().key
