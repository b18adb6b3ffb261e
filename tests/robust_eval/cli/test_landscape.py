"""``robust-eval landscape`` curve, plane, perturbation and weights on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import small_scans
from support.command_line import Run, command_runner, leave_undrawn, refused

from robust_eval.landscape.awp import scan

ATTACK = ("--examples", "12", "--steps", "2", "--eps", "0.1")
SMALL = (*ATTACK, "--points", "3")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call ``robust-eval landscape`` in a folder with two checkpoints: (exit code, stdout, stderr)."""
    for seed, name in enumerate(("at", "awp")):
        small_scans.write(tmp_path / f"{name}.pt", seed=seed)

    return command_runner(capsys, monkeypatch, tmp_path, "landscape")


def test_curves_of_two_checkpoints(run: Run) -> None:
    code, out, _ = run("curve", "at.pt", "awp.pt", *SMALL, "--pre-generated", "--out", "scan")
    assert code == 0
    assert "sharpness" in out
    assert "(misleading)" in out
    assert {path.suffix for path in Path("scan").glob("landscape-1d.*")} == {".png", ".svg", ".json"}
    data = json.loads(Path("scan/landscape-1d.json").read_text())
    assert [entry["label"] for entry in data["checkpoints"]] == ["at", "awp"]
    assert data["data"]["split"] == "train"
    assert "underestimates" in data["checkpoints"][0]["pre_generated"]["note"]
    entry = data["checkpoints"][0]
    assert entry["loss_mean"][1] == entry["pre_generated"]["loss_mean"][1] == entry["loss_at_0"]


def test_an_interruption_prints_how_to_continue(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    leave_undrawn(monkeypatch)
    run_scan = scan.run_scan
    monkeypatch.setattr(scan, "run_scan", stop)
    code, out, _ = run("curve", "at.pt", *SMALL, "--out", "scan")
    assert code == 130
    assert "Interrupted. Finished work is in scan: run the same command to continue." in out
    monkeypatch.setattr(scan, "run_scan", run_scan)
    assert run("curve", "at.pt", *SMALL, "--out", "scan")[0] == 0


def test_a_plane_and_perturbations(run: Run) -> None:
    code, out, _ = run("plane", "at.pt", *SMALL, "--norm", "l2", "--out", "l2")
    assert code == 0, out
    assert Path("l2/landscape-2d.svg").exists()
    words = ("--kinds", "awp,rwp", "--gammas", "1e-3,1e-1", "--directions", "2")
    code, out, _ = run("perturbation", "at.pt", *ATTACK, *words, "--out", "perturbation")
    assert code == 0, out
    assert json.loads(Path("perturbation/weight-perturbation.json").read_text())["gammas"] == [0.001, 0.1]


def test_an_overflow_is_reported(run: Run) -> None:
    code, out, _ = run("curve", "at.pt", *SMALL, "--span", "1e20", "--out", "far")
    assert code == 0
    assert "not finite" in out
    assert len(json.loads(Path("far/landscape-1d.json").read_text())["checkpoints"][0]["not_finite"]) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plane", "--directions", "1"), "--directions must be at least 2, got 1"),
        (("curve", "--directions", "0"), "--directions must be at least 1, got 0"),
        (("curve", "--seed", "-1"), "--seed must be 0 or more, got -1"),
        (("curve", "--data", "mnits"), "Unknown dataset 'mnits'. Did you mean mnist?"),
        (("curve", "--examples", "5000"), "Asked for 5000 examples, but digits .* has 1437"),
    ],
)
def test_invalid_options_are_refused(run: Run, words: tuple[str, ...], message: str) -> None:
    command, *options = words
    refused(run(command, "at.pt", "--eps", "0.1", *options), message)


@pytest.mark.parametrize(
    ("command", "option"),
    [("plane", "--kinds"), ("plane", "--pre-generated"), ("curve", "--gammas")],
)
def test_options_of_another_subcommand_are_refused(run: Run, command: str, option: str) -> None:
    code, _, err = run(command, "at.pt", "--eps", "0.1", option, "1")
    assert code == 2
    assert f"No such option: {option}" in err


def test_invalid_files_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_undrawn(monkeypatch)
    small_scans.write(Path("deep.pt"), arch="wrn-10-1")
    refused(run("curve", "at.pt", "deep.pt", *SMALL), "cannot be compared. Give checkpoints of one archi")
    refused(run("weights", "at.pt", "deep.pt"), "cannot be compared")
    assert run("curve", "deep.pt", *SMALL, "--direction-file", "d.st", "--out", "deep")[0] == 0
    refused(run("curve", "at.pt", *SMALL, "--direction-file", "d.st"), "for another model than at")
    Path("file").write_text("a file, not a folder")
    refused(run("curve", "at.pt", *SMALL, "--out", "file/scan"), "Cannot write to")
    refused(run("weights", "at.pt", "--out", "file/weights"), "Cannot write to")


def test_weights_of_two_checkpoints(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("weights", "at.pt", "awp.pt", "--names", "AT,AT-AWP", "--out", "w")
    assert code == 0
    assert "skewness" in out
    data = json.loads(Path("w/weights.json").read_text())
    assert data["layers"][0]["statistics"].keys() == {"AT", "AT-AWP"}
    leave_undrawn(monkeypatch)
    assert run("weights", "at.pt", "awp.pt", "--out", "w")[0] == 0
    refused(
        run("weights", "at.pt", "--out", "w"), r"contains a run of another request \(it differs in: check"
    )
    assert json.loads(Path("w/weights.json").read_text())["checkpoints"][1]["label"] == "awp"
    assert run("weights", "at.pt")[0] == 0
    assert [path.name[:11] for path in Path("runs").iterdir()] == ["weights-at-"]
