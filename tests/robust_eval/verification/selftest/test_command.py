"""Output and exit codes of ``robust-eval selftest`` and ``--diagnose``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.command_line import Run, command_runner

from robust_eval.results import read_result
from robust_eval.verification import selftest
from robust_eval.verification.selftest.case import Case, make_case
from robust_eval.verification.selftest.cases_unmodified import CHECKPOINT


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return command_runner(capsys, monkeypatch, tmp_path)


def test_the_outcomes_are_printed_as_a_table(run: Run) -> None:
    code, out, _ = run("selftest", "--only", "record")
    assert code == 0
    assert "best on the test set" in out
    assert "selected-on-test" in out
    assert "8 of 8 as expected" in out


@pytest.mark.parametrize(
    ("planted", "verdict"),
    [
        (make_case("record", "a defect", ("collapsed",), set), "missed"),
        (make_case("record", "unmodified", (), lambda: {"collapsed"}), "false alarm"),
    ],
)
def test_a_miss_and_a_false_alarm_fail(
    run: Run, monkeypatch: pytest.MonkeyPatch, planted: Case, verdict: str
) -> None:
    monkeypatch.setattr(selftest, "cases", lambda: (planted,))
    code, out, _ = run("selftest")
    assert code == 1
    assert verdict in out
    assert "0 of 1 as expected" in out
    assert re.search(r"^\w+: 1 case$", out, re.MULTILINE), "progress is printed without a terminal too"


def test_an_unknown_group(run: Run) -> None:
    code, _, err = run("selftest", "--only", "modle")
    assert code == 2
    assert "Unknown group 'modle'. Did you mean model?" in err


def test_a_diagnosis_prints_its_cost_and_is_stored(run: Run, tmp_path: Path) -> None:
    words = ("run", str(CHECKPOINT), "--suite", "fgsm", "--examples", "40", "--out", "out", "--diagnose")
    code, out, _ = run(*words)
    assert code == 0
    assert "diagnosis: 40 examples, up to 390 forward and 280 backward passes each, at most" in out
    assert out.index("diagnosis: ") < out.index("clean: ")
    result = read_result(tmp_path / "out" / "result.json")
    assert result.diagnosis is not None
    assert result.second_judgement is not None
    assert result.second_judgement.clean_logits == pytest.approx(0, abs=1e-5)
    code, out, _ = run(*words, "--dry-run")
    assert code == 0
    assert "40 examples, up to 390 forward" in out


def test_check_prints_its_figures(run: Run) -> None:
    code, out, _ = run("check", str(CHECKPOINT), "--figures")
    assert code == 0
    assert "coarse second_difference" in out
    assert "No flags." in out
