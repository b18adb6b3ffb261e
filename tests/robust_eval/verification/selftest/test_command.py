"""``robust-eval selftest`` and ``--diagnose`` as a user meets them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_eval.cli.main import main
from robust_eval.results import read_result
from robust_eval.verification import selftest
from robust_eval.verification.selftest.case import Case, case
from robust_eval.verification.selftest.cases_unmodified import CHECKPOINT

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robust-eval", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_what_was_caught_is_a_table(run: Run) -> None:
    code, out, _ = run("selftest", "--only", "record")
    assert code == 0
    assert "best on the test set" in out
    assert "selected-on-test" in out
    assert "8 of 8 as expected" in out


@pytest.mark.parametrize(
    ("planted", "verdict"),
    [
        (case("record", "a lie", ("collapsed",), set), "missed"),
        (case("record", "honest", (), lambda: {"collapsed"}), "false alarm"),
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
    assert re.search(r"^\w+: 1 case$", out, re.MULTILINE), "a pipe sees that it works"


def test_an_unknown_group(run: Run) -> None:
    code, _, err = run("selftest", "--only", "modle")
    assert code == 2
    assert "Unknown group 'modle'. Did you mean model?" in err


def test_a_diagnosis_states_its_cost_and_is_kept(run: Run, tmp_path: Path) -> None:
    words = ("run", str(CHECKPOINT), "--suite", "fgsm", "--examples", "40", "--out", "out", "--diagnose")
    code, out, _ = run(*words)
    assert code == 0
    assert "diagnosis: 40 examples, up to 390 forward and 280 backward passes each, at most" in out
    assert out.index("diagnosis: ") < out.index("clean: ")
    result = read_result(tmp_path / "out" / "result.json")
    assert result.diagnosis is not None
    assert result.diagnosis.fresh == pytest.approx(0, abs=1e-5)
    code, out, _ = run(*words, "--dry-run")
    assert code == 0
    assert "then one fresh process" in out


def test_check_prints_its_figures(run: Run) -> None:
    code, out, _ = run("check", str(CHECKPOINT), "--figures")
    assert code == 0
    assert "coarse second_difference" in out
    assert "No red flags." in out
