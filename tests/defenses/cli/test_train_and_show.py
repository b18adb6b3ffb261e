"""The command line of defenses: output, exit codes and error messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from defenses.cli import main
from defenses.training import seeds
from defenses.training.runtime import start_runtime
from defenses.training.seeds import SeedStatistics, parse_seeds, seed_statistics
from robust_eval.core.discovery import config_ids
from robust_eval.core.errors import UserError

TINY = [
    "--data",
    "digits",
    "--no-tensorboard",
    "--epochs",
    "1",
    "--batch-size",
    "128",
    "--set",
    "inner.steps=1",
]
TINY += ["--set", "selection.steps=1", "--set", "architecture_arguments.width=4"]


def invoke(*words: str) -> str:
    result = CliRunner().invoke(main.app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_list_names_every_recipe() -> None:
    output = invoke("list")
    assert all(name in output for name in config_ids("recipes"))


def test_the_options_of_train_are_grouped_in_panels() -> None:
    output = invoke("train", "--help")
    assert all(f"─ {panel} ─" in output for panel in ("Data", "Recipe", "Training", "Machine", "Output"))


def test_show_prints_values_their_meaning_and_their_sources() -> None:
    output = invoke("show", "trades-awp", "--data", "mnist", "--set", "inner.steps=7")
    flat = " ".join(output.split())
    for piece in (
        "trades-awp",
        "inner.steps 7 command",
        "1/30 (0.01 at 0.3)",
        "perturbation.gamma 0.005",
        "Zhang",
    ):
        assert piece in flat or piece == "Zhang", piece


def test_the_plan_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = invoke("train", "trades-awp", *TINY, "--epochs", "7", "--seeds", "0,1", "--dry-run")
    assert "7 epochs, 70 updates of " in output
    assert "3 measurements of accuracy, at most " in output
    assert " for 2 seeds" in output
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="leave --devices and --nodes out"):
        invoke("train", "at", *TINY, "--devices", "2", "--dry-run")


def test_train_with_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = invoke("train", "at-awp", *TINY, "--seeds", "0,1")
    folders = [tmp_path / "runs" / f"at-awp-digits-digits-cnn-s{seed}" for seed in (0, 1)]
    assert all((folder / "best.pt").exists() for folder in folders)
    summary = json.loads((tmp_path / "runs" / "at-awp-digits-digits-cnn-2-seeds.json").read_text())
    assert summary["seeds"] == [0, 1]
    values = [json.loads((f / "run.json").read_text())["seed"] for f in folders]
    assert values == [0, 1]
    figure = summary["best"]["val_pgd"]
    assert figure["lowest"] <= figure["mean"] <= figure["highest"]
    assert "±" in output
    assert "epoch 1/1" in output


def test_seed_statistics_use_the_sample_standard_deviation() -> None:
    assert seed_statistics([0.5, 0.6, 0.7]) == SeedStatistics(
        pytest.approx(0.6), pytest.approx(0.1), 0.5, 0.7
    )
    assert seed_statistics([0.5]) == SeedStatistics(0.5, 0.0, 0.5, 0.5)
    assert parse_seeds("0,1,5") == (0, 1, 5)
    assert parse_seeds("0-3") == (0, 1, 2, 3)


@pytest.mark.parametrize("text", ["", "a", "0,0", "3-1"])
def test_invalid_seeds_are_rejected(text: str) -> None:
    with pytest.raises(UserError, match="write for example 0,1,2"):
        seeds.parse_seeds(text)


def test_more_seeds_than_anyone_trains_are_refused_without_counting_to_them() -> None:
    with pytest.raises(UserError, match="more than 1000 seeds. Name fewer."):
        seeds.parse_seeds("0-99999999999999")


DEVICES = [
    ("gpu", "32", 1, "Unknown device 'gpu'"),
    ("cuda:99", "32", 1, "cuda:99 is not available"),
    ("cpu", "fp8", 1, "Unknown precision 'fp8'"),
    ("cpu", "32", 0, "--devices must be at least 1"),
]


@pytest.mark.parametrize(("device", "precision", "devices", "sentence"), DEVICES)
def test_invalid_devices_and_precisions_are_rejected(
    device: str, precision: str, devices: int, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        start_runtime(device, precision, devices)


@pytest.mark.parametrize("threads", [0, 10**40])
def test_invalid_threads_are_rejected(threads: int) -> None:
    with pytest.raises(UserError, match="--threads must be at least 1 and at most 10,000"):
        invoke("train", "at", *TINY, "--threads", str(threads))


def test_several_seeds_continue_after_an_interruption(tmp_path: Path) -> None:
    """After an interruption in the first seed, --resume starts the second seed from the beginning."""
    invoke("train", "at", *TINY, "--seed", "0", "--out", str(tmp_path / "both" / "s0"))
    before = (tmp_path / "both" / "s0" / "curve.csv").read_text()
    invoke("train", "at", *TINY, "--seeds", "0,1", "--out", str(tmp_path / "both"), "--resume")
    assert (tmp_path / "both" / "s0" / "curve.csv").read_text() == before
    assert (tmp_path / "both" / "s1" / "best.pt").is_file()
    assert json.loads((tmp_path / "both" / "seeds.json").read_text())["seeds"] == [0, 1]


def test_a_non_empty_current_folder_is_rejected_as_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="The current folder is not empty: name a new one with --out"):
        invoke("train", "at", *TINY, "--out", "")


def test_contradictory_and_empty_options_are_rejected() -> None:
    with pytest.raises(UserError, match="--seed and --seeds contradict each other"):
        invoke("train", "at", *TINY, "--seed", "3", "--seeds", "0")
    for option in ("--init", "--extra-data", "--unlabelled"):
        with pytest.raises(UserError, match=f"{option} is empty: name a file, or leave it out"):
            invoke("train", "at", *TINY, option, "")


def test_a_user_error_is_printed_on_stderr_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["defenses", "train", "at-apw", "--data", "digits"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.err.strip() == "Error: Unknown recipe 'at-apw'. Did you mean at-awp?"
    assert printed.out == ""
