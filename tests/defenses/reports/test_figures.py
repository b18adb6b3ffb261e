"""Figures: learning curves, reference logs, and the gap against flatness."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.finished_runs import make_run
from typer.testing import CliRunner

from defenses.cli import main
from defenses.reports.figures import gap_flatness, references
from defenses.runs.reading import read_run
from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.models.architectures import build
from robust_eval.models.loading.checkpoint import CheckpointDescription, save

HEADER = "epoch,train_rob_acc,test_nat_acc,test_rob_acc\n"


def invoke(*words: str | Path) -> str:
    result = CliRunner().invoke(main.app, ["curves", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def drawn(stem: Path) -> dict[str, Any]:
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert stem.with_suffix(".svg").exists()
    found: dict[str, Any] = json.loads(stem.with_suffix(".json").read_text())
    return found


def add_training_accuracy(run: Path) -> None:
    path = run / "curve.csv"
    head, *rows = path.read_text().splitlines()
    column = head.split(",").index("train_pgd")
    for number, row in enumerate(rows):
        cells = row.split(",")
        cells[column] = str(0.5 + 0.1 * number)
        rows[number] = ",".join(cells)
    path.write_text("\n".join([head, *rows]) + "\n")


def test_runs_and_a_reference_in_one_figure(tmp_path: Path) -> None:
    for name, recipe in (("at", "at"), ("ours", "at-awp")):
        add_training_accuracy(make_run(tmp_path / "runs" / name, recipe))
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "cifar10_standard.csv").write_text(HEADER + "0,0.3,0.5,0.25\n1,0.6,0.7,0.4\n")
    (logs / "cifar10_awp.csv").write_text(HEADER + "0,0.3,0.5,0.25\n1,0.45,0.7,0.5\n")
    (logs / "summary.csv").write_text("run,best\na,1\n")
    text = invoke(tmp_path / "runs", "--reference", logs, "--out", tmp_path / "figure")
    assert "ours: epoch 3: train 70.0%, unseen 50.0%, gap 20.0 points; best at epoch 2" in text
    found = drawn(tmp_path / "figure")
    lines = {line["name"]: line for line in found["lines"]}
    assert set(lines) == {"at", "ours", "cifar10_standard", "cifar10_awp"}
    assert found["unseen_images"] == "test"
    gaps = [value for _, value in lines["at"]["panels"]["gap"]]
    assert gaps == pytest.approx([50 - 41, 60 - 49, 70 - 50])
    assert lines["cifar10_standard"]["panels"]["gap"][1] == pytest.approx([2, 20])
    # The log of an AWP run measures training accuracy at w+v.
    assert lines["cifar10_awp"]["panels"]["gap"] == lines["cifar10_awp"]["panels"]["train_robust"] == []
    assert lines["cifar10_awp"]["reference"] is True
    assert "Only the test accuracies are drawn: cifar10_awp (no training accuracy at w)." in text


def test_folders_with_the_same_name_are_distinguished(tmp_path: Path) -> None:
    for method in ("at", "at-awp"):
        make_run(tmp_path / method / "s0", method)
    invoke(tmp_path / "at", tmp_path / "at-awp", "--names", "AT,AT-AWP", "--out", tmp_path / "f")
    recorded = drawn(tmp_path / "f")["runs"]
    assert {name: run["method"] for name, run in recorded.items()} == {"AT": "at", "AT-AWP": "at-awp"}
    assert recorded["AT"]["threat"] == "Linf 8/255"


def test_held_out_images_are_used_if_a_run_has_no_test_accuracy(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", test_measured=False)
    text = invoke(tmp_path / "a", tmp_path / "b", "--names", "one,two", "--out", tmp_path / "f")
    found = drawn(tmp_path / "f")
    assert found["unseen_images"] == "held out from the training set"
    assert [line["name"] for line in found["lines"]] == ["one", "two"]
    assert found["lines"][0]["panels"]["robust"] == [[1, 40], [2, 50], [3, 45]]
    assert "no gap was measured" in text


def test_bad_input_is_rejected(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with pytest.raises(UserError, match="--names needs 1 different names"):
        invoke(run, "--names", "a,b")
    with pytest.raises(UserError, match="There is no .*nowhere.csv"):
        invoke(run, "--reference", tmp_path / "nowhere.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        UserError, match="is not a log of a training run: it needs the columns epoch, test_rob_acc"
    ):
        references.read([tmp_path / "other.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no log of a training run"):
        references.read([tmp_path / "empty"])
    (tmp_path / "bad.csv").write_text(HEADER + "0,x,0.5,0.25\n")
    with pytest.raises(UserError, match="cannot be read as a log"):
        references.read([tmp_path / "bad.csv"])
    for row, sentence in (
        ("0,30,0.5,0.25", "has train_rob_acc = 30, but accuracies are fractions from 0 to 1"),
        ("0,0.3,0.5,nan", "has test_rob_acc = nan, but accuracies are fractions"),
        ("inf,0.3,0.5,0.25", "has epoch = inf, but epochs count from 0"),
    ):
        (tmp_path / "bad.csv").write_text(HEADER + row + "\n")
        with pytest.raises(UserError, match=sentence):
            references.read([tmp_path / "bad.csv"])
    with pytest.raises(UserError, match="--reference applies to learning curves"):
        invoke(run, "--reference", tmp_path, "--against-flatness", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write to .*file"):
        invoke(run, "--out", tmp_path / "file" / "figure")
    (run / "curve.csv").write_text("epoch,val_clean,val_pgd\n1,0.5,nan\n")
    with pytest.raises(UserError, match="has val_pgd = nan in epoch 1, but accuracies are fractions"):
        invoke(run)
    (run / "curve.csv").unlink()
    with pytest.raises(UserError, match="has no learning curve yet"):
        invoke(run)


def checkpointed(folder: Path, gaps: list[float]) -> list[str]:
    """Make a run with one checkpoint per gap; returns their sha256."""
    run, digests = make_run(folder), []
    for epoch, gap in enumerate(gaps, 1):
        torch.manual_seed(epoch + len(folder.name))
        path = run / f"epoch-{epoch:04d}.pt"
        save(
            path,
            build("digits-cnn", classes=2, channels=1, image_size=(8, 8), width=2, hidden=2),
            CheckpointDescription(
                architecture=Architecture("digits-cnn", {"width": 2, "hidden": 2}),
                normalisation=Normalisation("none"),
                classes=2,
                channels=1,
                image_size=(8, 8),
                metrics={"epoch": epoch, "train_pgd": 0.5 + gap, "val_pgd": 0.6, "test_pgd": 0.5},
            ),
        )
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    (run / "best.pt").write_bytes(path.read_bytes())
    return digests


def landscape(path: Path, sharpness: dict[str, float], **changes: object) -> Path:
    entries = [{"sha256": digest, "flatness": {"sharpness": value}} for digest, value in sharpness.items()]
    path.write_text(json.dumps({"kind": "landscape-1d", "seed": 0, "checkpoints": entries, **changes}))
    return path


def test_gap_against_flatness(tmp_path: Path) -> None:
    one, two = checkpointed(tmp_path / "a", [0.1, 0.2, 0.4]), checkpointed(tmp_path / "bb", [0.05, 0.3])
    sharp = dict(zip([*one, *two], [1.0, 2.0, 5.0, 0.5, 2.5], strict=True))
    file = landscape(tmp_path / "l.json", sharp | {"00" * 32: 9.0})
    text = invoke(tmp_path / "a", tmp_path / "bb", "--against-flatness", file, "--out", tmp_path / "f")
    assert "5 checkpoints: gap against sharpness, Spearman 1.000" in text
    found = drawn(tmp_path / "f")
    # best.pt has the same weights as another checkpoint and is not counted again.
    assert [spot["gap"] for spot in found["checkpoints"]] == pytest.approx([10, 20, 40, 5, 30])
    assert found["correlation"]["n"] == 5


def test_unusable_flatness_files_are_rejected(tmp_path: Path) -> None:
    (digest,) = checkpointed(tmp_path / "a", [0.1])
    fine = landscape(tmp_path / "l.json", {digest: 1.0})
    other = landscape(tmp_path / "m.json", {digest: 1.0}, seed=1)
    with pytest.raises(UserError, match="measured with different seed"):
        gap_flatness.read_flatness([fine, other])
    finer = landscape(tmp_path / "p.json", {digest: 1.0}, batch_size=50)
    with pytest.raises(UserError, match="measured with different batch_size"):
        gap_flatness.read_flatness([fine, finer])
    with pytest.raises(UserError, match="is not a landscape: name the .json file that robust-eval landscape"):
        gap_flatness.read_flatness([landscape(tmp_path / "n.json", {}, kind="other")])
    with pytest.raises(UserError, match="No checkpoint of the landscape is in these run folders"):
        gap_flatness.match([read_run(tmp_path / "a")], ["a"], {"00" * 32: 1.0})
    text = invoke(tmp_path / "a", "--against-flatness", fine, "--out", tmp_path / "f")
    assert "1 checkpoint: no correlation, which needs three checkpoints" in text
