"""Two gloo processes compared with one process on the joined batch."""

from __future__ import annotations

import csv
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_jobs import make_job
from support.two_processes import NETWORK, complete_run, one_epoch

from defenses.training.batches import BatchSampler, ImagePool
from defenses.training.context import begin
from defenses.training.runtime import Runtime, start_runtime
from robust_eval.core.errors import UserError
from robust_eval.models.loading import checkpoint

# No random numbers per process: then two processes must give the result of one on the joined batch.
ALIKE = ("inner.start=none", "perturbation.warmup=0", "perturbation.gamma=0.05", "optimiser.lr=0.05")
# 70 images in batches of 32: the last one holds 6.
UNEVEN = {"n": 71, "held_out": 33}


def same(ranks: list[dict[str, Any]], key: str) -> bool:
    first, second = (rank[key] for rank in ranks)
    return all(torch.equal(first[name], second[name]) for name in first)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    ("recipe", "sets"),
    [
        ("at-awp", ()),
        ("trades-awp", ("perturbation.alternations=2",)),
        ("at-awp", ("perturbation.regulariser=absolute", "perturbation.strength=0.5")),
    ],
)
def test_two_processes_equal_one_on_the_joined_batch(
    tmp_path: Path, recipe: str, sets: tuple[str, ...]
) -> None:
    """The direction of v is that of the joined batch, not of one process's part."""
    two = one_epoch(2, tmp_path, recipe, *ALIKE, *sets, **UNEVEN)
    (one,) = one_epoch(1, tmp_path, recipe, *ALIKE, *sets, **UNEVEN)
    assert same(two, "trained"), "every process holds the same weights, bit for bit"
    assert distance(two[0]["trained"], one["trained"]) < 2e-5
    assert two[0]["images"] == one["images"] == 71
    assert two[0]["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two[0]["measured"] == two[1]["measured"]
    for name, figures in one["measured"].items():
        # Weights that differ by rounding may change the prediction of one image.
        assert two[0]["measured"][name] == pytest.approx(figures, abs=0.04)


def test_the_comparison_detects_a_missing_perturbation(tmp_path: Path) -> None:
    """Without a perturbation the weights differ by more than the tolerance above."""
    (one,) = one_epoch(1, tmp_path, "at-awp", *ALIKE, **UNEVEN)
    (plain,) = one_epoch(1, tmp_path, "at", "inner.start=none", "optimiser.lr=0.05", **UNEVEN)
    assert distance(one["trained"], plain["trained"]) > 1e-3


@pytest.fixture
def network(tmp_path: Path) -> str:
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return f"{file}:build"


def test_synchronised_batchnorm_uses_the_joined_batch(tmp_path: Path, network: str) -> None:
    """The attack, which never synchronises, runs in eval mode, where no synchronisation is needed."""
    sets = (*ALIKE, "inner.batch_norm=eval", "training.sync_batch_norm=true")
    two = one_epoch(2, tmp_path, "at-awp", *sets, arch=network, **UNEVEN)
    (one,) = one_epoch(1, tmp_path, "at-awp", *sets, arch=network, **UNEVEN)
    assert same(two, "trained"), "running statistics included"
    assert distance(two[0]["trained"], one["trained"]) < 2e-4


def test_unsynchronised_running_statistics_are_averaged_before_measuring(
    tmp_path: Path, network: str
) -> None:
    two = one_epoch(2, tmp_path, "at-awp", *ALIKE, arch=network, **UNEVEN)
    first, second = (rank["trained"] for rank in two)
    weights = [name for name in first if "running" not in name]
    assert all(torch.equal(first[name], second[name]) for name in weights)
    assert not torch.equal(first["1.running_mean"], second["1.running_mean"])
    assert same(two, "shared")
    assert two[0]["measured"] == two[1]["measured"]


def test_running_statistics_of_the_weight_average_are_averaged_too(tmp_path: Path, network: str) -> None:
    two = one_epoch(2, tmp_path, "at", *ALIKE, "training.ema=0.5", arch=network, **UNEVEN)
    assert not torch.equal(two[0]["evaluated"]["1.running_mean"], two[0]["shared"]["1.running_mean"])
    assert same(two, "evaluated")
    assert same(two, "shared")
    assert two[0]["measured"] == two[1]["measured"]


@pytest.mark.parametrize("n", [7, 64, 65, 66])
def test_parts_of_batches_are_disjoint_and_complete(n: int) -> None:
    mix = BatchSampler(ImagePool(torch.zeros(n, 1, 1, 1), torch.arange(n)), None, 8, 0, 0)
    parts = [list(mix.batches(3, 0, rank, 3)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1, "every process makes the same number of updates"
    labels = [int(y) for part in parts for _, y_N in part for y in y_N]
    assert len(labels) == len(set(labels)), "no image twice"
    left_out = n % 8 if n % 8 < 3 else 0
    assert len(labels) == n - left_out
    assert all(len(y_N) for part in parts for _, y_N in part)


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "run" / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_is_written_once_and_resumes_with_another_number_of_processes(tmp_path: Path) -> None:
    complete_run(2, tmp_path, "at", epochs=1)
    assert [row["epoch"] for row in curve(tmp_path)] == ["1"]
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"best.pt", "last.pt", "resume.pt"}
    before = curve(tmp_path)
    complete_run(1, tmp_path, "at", epochs=1, resume=True)
    assert curve(tmp_path) == before, (
        "the run was finished, and the number of processes is not part of its identity"
    )


def test_a_resumed_run_notes_another_number_of_processes(tmp_path: Path) -> None:
    context, state = begin(make_job(tmp_path, "at"), start_runtime("cpu", "32", 1))
    saved = {**state.saved(context.runtime), "world": 4}
    (note,) = state.restore(saved, context.runtime)
    assert "trained on 4 processes so far, now on 1: the batches stay the same" in note
    two = Runtime(torch.device("cpu"), nullcontext, 0, 2)
    del saved["world"]
    (note,) = begin(make_job(tmp_path, "at"), two)[1].restore(saved, two)
    assert "trained on 1 process so far, now on 2" in note


def test_invalid_numbers_of_nodes_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--nodes must be at least 1, got 0"):
        start_runtime("cpu", "32", 1, 0)
    with pytest.raises(UserError, match="--nodes 2 needs a rendezvous address: start the command on"):
        start_runtime("cpu", "32", 1, 2)
    with pytest.raises(UserError, match="training.batch_size is 32, too few for 17 processes"):
        make_job(tmp_path, "at", devices=17)


def test_torchrun_with_another_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would otherwise train the complete run, in the same folder."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for devices in (1, 3):
        message = (
            f"torchrun has started 2 processes, but --devices and --nodes make {devices}: add --devices 2."
        )
        with pytest.raises(UserError, match=message):
            start_runtime("cpu", "32", devices)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UserError, match="add --devices 2 --nodes 4"):
        start_runtime("cpu", "32", 2)


@pytest.mark.slow
def test_the_command_on_two_devices(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "defenses.cli",
        "train",
        "at-awp",
        "--data",
        "digits",
        "--device",
        "cpu",
    ]
    command += ["--devices", "2", "--epochs", "4", "--threads", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1
    found = checkpoint.load(str(tmp_path / "run" / "last.pt"), images=None, device="cpu")
    assert found.ref.dataset == "digits"
