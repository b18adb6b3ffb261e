"""``robust-eval landscape`` and ``weights`` as a user meets them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import small_scans

from robust_eval.cli.main import main
from robust_eval.landscape.awp import scan

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--examples", "12", "--points", "3", "--steps", "2", "--eps", "0.1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call ``robust-eval`` in an empty folder with two checkpoints: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    for seed, name in enumerate(("at", "awp")):
        small_scans.write(tmp_path / f"{name}.pt", seed=seed)

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


def refused(outcome: tuple[int, str, str], message: str) -> None:
    code, _, err = outcome
    assert code == 2, outcome
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_curves_of_two_checkpoints(run: Run) -> None:
    code, out, _ = run("landscape", "at.pt", "awp.pt", *SMALL, "--pre-generated", "--out", "scan")
    assert code == 0
    assert "sharpness" in out
    assert "which misleads" in out
    assert {path.suffix for path in Path("scan").glob("landscape-1d.*")} == {".png", ".svg", ".json"}
    data = json.loads(Path("scan/landscape-1d.json").read_text())
    assert [entry["label"] for entry in data["checkpoints"]] == ["at", "awp"]
    assert data["data"]["split"] == "train"
    assert "underestimates" in data["checkpoints"][0]["pre_generated"]["note"]
    entry = data["checkpoints"][0]
    assert entry["loss_mean"][1] == entry["pre_generated"]["loss_mean"][1] == entry["loss_at_0"]


def test_interrupted_it_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    whole = scan.run
    monkeypatch.setattr(scan, "run", stop)
    code, out, _ = run("landscape", "at.pt", *SMALL, "--out", "scan")
    assert code == 130
    assert "Stopped. Finished points are in scan: the same command goes on." in out
    monkeypatch.setattr(scan, "run", whole)
    assert run("landscape", "at.pt", *SMALL, "--out", "scan")[0] == 0


def test_a_plane_and_perturbations(run: Run) -> None:
    code, out, _ = run("landscape", "at.pt", *SMALL, "--plane", "--norm", "l2", "--out", "l2")
    assert code == 0, out
    assert Path("l2/landscape-2d.svg").exists()
    words = ("--perturbation", "awp,rwp", "--gammas", "1e-3,1e-1", "--directions", "2")
    code, out, _ = run("landscape", "at.pt", *SMALL, *words, "--out", "response")
    assert code == 0, out
    assert json.loads(Path("response/weight-perturbation.json").read_text())["gammas"] == [0.001, 0.1]


def test_an_overflow_is_said(run: Run) -> None:
    code, out, _ = run("landscape", "at.pt", *SMALL, "--span", "1e20", "--out", "far")
    assert code == 0
    assert "not finite" in out
    assert len(json.loads(Path("far/landscape-1d.json").read_text())["checkpoints"][0]["not_finite"]) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--plane", "--perturbation", "awp"), "--plane and --perturbation are two figures"),
        (("--plane", "--pre-generated"), "--pre-generated is drawn beside the 1-D curve"),
        (("--gammas", "1"), "--gammas belongs to --perturbation"),
        (("--plane", "--directions", "1"), "--directions must be at least 2 here, got 1"),
        (("--directions", "0"), "--directions must be at least 1 here, got 0"),
        (("--seed", "-1"), "--seed must be 0 or more, got -1"),
        (("--data", "mnits"), "Unknown dataset 'mnits'. Did you mean mnist?"),
        (("--examples", "5000"), "Asked for 5000 examples, but digits .* has 1437"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(run: Run, words: tuple[str, ...], message: str) -> None:
    refused(run("landscape", "at.pt", "--eps", "0.1", *words), message)


def test_bad_files_are_one_sentence(run: Run) -> None:
    small_scans.write(Path("deep.pt"), arch="wrn-10-1")
    refused(run("landscape", "at.pt", "deep.pt", *SMALL), "cannot be compared. Give checkpoints of one archi")
    refused(run("weights", "at.pt", "deep.pt"), "cannot be compared")
    assert run("landscape", "deep.pt", *SMALL, "--direction-file", "d.st", "--out", "deep")[0] == 0
    refused(run("landscape", "at.pt", *SMALL, "--direction-file", "d.st"), "for another model than at")
    Path("file").write_text("in the way")
    refused(run("landscape", "at.pt", *SMALL, "--out", "file/scan"), "Cannot write to")
    refused(run("weights", "at.pt", "--out", "file/weights"), "Cannot write to")


def test_weights_of_two_checkpoints(run: Run) -> None:
    code, out, _ = run("weights", "at.pt", "awp.pt", "--names", "AT,AT-AWP", "--out", "w")
    assert code == 0
    assert "skewness" in out
    data = json.loads(Path("w/weights.json").read_text())
    assert data["layers"][0]["statistics"].keys() == {"AT", "AT-AWP"}
