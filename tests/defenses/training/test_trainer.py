"""Complete runs: learning curve, checkpoint selection, early stopping, weight average, snapshots."""

from __future__ import annotations

import csv
import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_jobs import make_job, run, same, weights
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from defenses.runs.learning_curve import COLUMNS, TensorBoard
from defenses.training import accuracy
from defenses.training.accuracy import Accuracies, measure_accuracies
from defenses.training.checkpoints import environment
from defenses.training.context import begin
from defenses.training.early_stopping import check_collapse, patience_exhausted, select_checkpoint
from defenses.training.runtime import start_runtime
from defenses.training.state import TrainingProgress
from robust_eval.core.errors import UserError
from robust_eval.core.folders import lock_folder
from robust_eval.models.loading import checkpoint
from robust_eval.results import checkpoint_claims


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "at", epochs=1)
    with lock_folder(tmp_path / "run"), pytest.raises(UserError, match="Another process is working in .*run"):
        run(job)
    run(job)
    with lock_folder(tmp_path / "run"), pytest.raises(UserError, match="Another process is working in .*run"):
        run(make_job(tmp_path / "run", "at", epochs=1, resume=True))


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def test_files_of_tensorboard_that_cannot_be_written_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    board = TensorBoard(tmp_path / "file" / "tensorboard", 1)
    board.add({"epoch": 1, "loss": 2.0})
    board.close()


def test_a_run_writes_curve_checkpoints_and_record(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "at-awp", "selection.keep_every=2", epochs=3, tensorboard=True)
    outcome = run(job)
    rows = curve(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == list(COLUMNS)
    assert all(0 <= float(row["val_pgd"]) <= float(row["val_clean"]) <= 1 for row in rows)
    assert float(rows[0]["robust_gap"]) == pytest.approx(
        float(rows[0]["train_pgd"]) - float(rows[0]["val_pgd"]), abs=1e-5
    )
    assert rows[0]["test_clean"] == ""
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {
        "best.pt",
        "last.pt",
        "epoch-0002.pt",
        "curve.csv",
        "resume.pt",
        "run.json",
        "tensorboard",
    }
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    written = list(EventFileLoader(str(events)).Load())
    assert [event.step for event in written] == [1, 1, 1, 2, 3]
    losses = [value for event in written for value in event.summary.value if value.tag == "loss"]
    assert [value.tensor.float_val[0] for value in losses] == pytest.approx(
        [float(row["loss"]) for row in rows], rel=1e-5
    )
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe"]["perturbation"]["gamma"] == 0.01
    assert record["sources"]["perturbation.gamma"].startswith("at-awp: ")
    assert record["images"] == {"train": 64, "validation": 32}
    best = max(rows, key=lambda row: (float(row["val_pgd"]), -int(row["epoch"])))
    assert outcome.best["epoch"] == float(best["epoch"])
    ref = checkpoint.load(str(tmp_path / "run" / "best.pt"), images=None).ref
    assert ref.trained_with is not None
    assert ref.trained_with["metrics"]["epoch"] == outcome.best["epoch"]
    assert ref.trained_with["threat"] == {"norm": "Linf", "eps": "0.1"}
    assert ref.dataset == "digits"
    hardware = {"device": platform.machine(), "threads": torch.get_num_threads()}
    assert hardware.items() <= ref.trained_with["provenance"].items()
    assert hardware.items() <= record["environment"].items()
    assert selected(tmp_path / "run") == {"best": "validation", "last": "last", "epoch-0002": "unknown"}


def selected(folder: Path) -> dict[str, str]:
    """The selection recorded in each checkpoint, independent of its file name."""
    found = {}
    for path in folder.glob("*.pt"):
        if path.name != "resume.pt":
            ref = checkpoint.load(str(path), images=None).ref
            found[path.stem] = checkpoint_claims.selected(ref.trained_with, "renamed.pt")
    return found


def test_the_recorded_device_is_the_one_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU {device}")
    assert environment(torch.device("cpu"))["device"] == platform.machine()
    found = environment(torch.device("cuda:1"))
    assert found["device"] == "the GPU cuda:1"
    assert "threads" not in found


def test_without_validation_images_best_is_recorded_as_last(tmp_path: Path) -> None:
    run(make_job(tmp_path / "run", "at", "selection.validation=0", epochs=1))
    assert selected(tmp_path / "run")["best"] == "last"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(make_job(tmp_path / name, "at-awp", epochs=1, seed=seed))
    a, b, c = (weights(tmp_path / name / "last.pt") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_accuracy_is_measured_at_w_in_eval_mode_without_side_effects(tmp_path: Path) -> None:
    context, _ = begin(make_job(tmp_path, "at-awp"), start_runtime("cpu", "32", 1))
    model, pool, recipe = context.model.train(), context.pools["val"], context.job.recipe
    before = torch.random.get_rng_state()
    modes: list[bool] = []

    def forward(x: Tensor) -> Tensor:
        modes.append(model.training)
        logits: Tensor = model(x)
        return logits

    found = measure_accuracies(model, pool, recipe, forward)
    assert modes
    assert not any(modes)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found == measure_accuracies(model, pool, recipe, forward)
    x, y = pool.batch(torch.arange(32))
    model.eval()
    assert found.clean == (model(x).argmax(1) == y).float().mean().item()
    assert found.pgd <= found.clean


def test_measuring_uses_the_full_epsilon_with_any_epsilon_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radii = []
    original = accuracy.maximise

    def spy(*args: object, radius: float, **others: object) -> Tensor:
        radii.append(radius)
        return original(*args, radius=radius, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(accuracy, "maximise", spy)
    run(make_job(tmp_path, "at", "budget.kind=linear", epochs=2))
    assert set(radii) == {0.1}


def test_test_images_are_measured_only_on_request_and_not_used_for_selection(tmp_path: Path) -> None:
    assert make_job(tmp_path, "at").test is None
    run(make_job(tmp_path / "run", "at", "selection.test_images=20"))
    assert all(0 <= float(row["test_pgd"]) <= 1 for row in curve(tmp_path / "run"))
    progress, recipe = TrainingProgress(), make_job(tmp_path, "at").recipe
    assert select_checkpoint(
        progress, recipe, {"val": Accuracies(0.5, 0.3, False), "test": Accuracies(0, 0, False)}, held_out=True
    )
    assert not select_checkpoint(
        progress, recipe, {"val": Accuracies(0.9, 0.3, False), "test": Accuracies(1, 1, False)}, held_out=True
    )


def test_natural_training_is_selected_by_clean_accuracy_and_records_no_threat_model(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "natural")
    progress = TrainingProgress()
    assert select_checkpoint(progress, job.recipe, {"val": Accuracies(0.9, 0.0, False)}, held_out=True)
    assert select_checkpoint(progress, job.recipe, {"val": Accuracies(0.95, 0.0, False)}, held_out=True)
    run(job)
    ref = checkpoint.load(str(tmp_path / "run" / "best.pt"), images=None).ref
    assert ref.trained_with is not None
    assert "threat" not in ref.trained_with


def test_without_validation_images_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    outcome = run(make_job(tmp_path, "at", "selection.validation=0", "selection.train_images=0", held_out=0))
    assert outcome.best["epoch"] == 2
    assert same(weights(tmp_path / "best.pt"), weights(tmp_path / "last.pt"))


def test_patience_counts_from_patience_from(tmp_path: Path) -> None:
    recipe = make_job(tmp_path, "at-es", "selection.patience=2", epochs=10).recipe
    progress, worse = TrainingProgress(), {"val": Accuracies(0.5, 0.1, False)}
    select_checkpoint(progress, recipe, {"val": Accuracies(0.5, 0.4, False)}, held_out=True)
    stops = []
    for epoch in range(1, 8):
        progress.epoch = epoch
        select_checkpoint(progress, recipe, worse, held_out=True)
        stops.append(patience_exhausted(progress, recipe))
    assert stops == [False] * 5 + [True] * 2
    assert progress.best_epoch == 1


def test_a_run_stops_when_patience_is_exhausted(tmp_path: Path) -> None:
    outcome = run(make_job(tmp_path, "at-es", "selection.patience=1", "optimiser.lr=1e-9", epochs=8))
    assert outcome.epochs < 8


def test_the_weight_average_is_measured_and_saved(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "at", "training.ema=0.9", epochs=1)
    plain = make_job(tmp_path / "plain", "at", epochs=1)
    run(job)
    run(plain)
    averaged, last = weights(tmp_path / "run" / "last.pt"), weights(tmp_path / "plain" / "last.pt")
    state = torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["state"]
    assert same(state["network"], last)
    assert same(state["average"], averaged)
    first = begin(plain, start_runtime("cpu", "32", 1))[1].network.state_dict()
    # After two updates the average contains 0.81 of the first weights.
    share = (averaged["fc2.weight"] - first["fc2.weight"]).norm() / (
        last["fc2.weight"] - first["fc2.weight"]
    ).norm()
    assert 0.05 < share < 0.25


def test_periodic_scheduling_writes_an_ensemble_that_can_be_loaded(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "at-pas", epochs=4)
    outcome = run(job)
    assert [float(row["budget"]) for row in curve(tmp_path / "run")] == pytest.approx([0, 1, 0, 0])
    assert outcome.ensemble is not None
    loaded = checkpoint.load(str(tmp_path / "run" / "ensemble.pt"), images=job.train)
    assert loaded.ref.architecture.id == "ensemble"
    x = job.train.tensors()[0]
    members = [
        checkpoint.load(str(tmp_path / "run" / f"snapshot-{n}.pt"), images=job.train).model for n in (1, 2, 3)
    ]
    with torch.no_grad():
        mean = torch.stack([member(x).softmax(1) for member in members]).mean(0)
        torch.testing.assert_close(loaded.model(x).softmax(1), mean)


def test_bfloat16(tmp_path: Path) -> None:
    run(make_job(tmp_path / "bf16", "trades-awp", "perturbation.warmup=0", precision="bf16", epochs=1))
    run(make_job(tmp_path / "32", "trades-awp", "perturbation.warmup=0", epochs=1))
    low, full = weights(tmp_path / "bf16" / "last.pt"), weights(tmp_path / "32" / "last.pt")
    assert low["fc2.weight"].dtype == torch.float32
    assert not same(low, full)
    torch.testing.assert_close(low["fc2.weight"], full["fc2.weight"], rtol=0, atol=0.05)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    job = make_job(tmp_path, "at-awp", "optimiser.lr=1e6", epochs=4)
    with pytest.raises(
        UserError, match=r"The loss became (nan|inf) in epoch \d, update \d of 2; .*curve\.csv"
    ):
        run(job)


def test_the_collapse_message_names_the_last_good_epoch(tmp_path: Path) -> None:
    job = make_job(tmp_path, "at-awp", "selection.collapse_after=3", epochs=9)
    progress = TrainingProgress(epoch=6, one_class=2)
    check_collapse(progress, job.recipe, tmp_path)
    progress = TrainingProgress(epoch=7, one_class=3)
    with pytest.raises(
        UserError,
        match=r"predicted one class for every image since epoch 5.*Look at epoch 4.*perturbation.gamma",
    ):
        check_collapse(progress, job.recipe, tmp_path)
    check_collapse(progress, make_job(tmp_path, "at", "selection.collapse_after=0").recipe, tmp_path)


def test_a_collapsed_run_stops_and_keeps_its_files(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "at", "selection.collapse_after=2", "optimiser.lr=1e-9", epochs=9)
    one_class = replace(job.validation.take(32)) if job.validation else None
    assert one_class is not None
    black = replace(one_class, x_NHWC=one_class.x_NHWC * 0)
    with pytest.raises(UserError, match="has collapsed"):
        run(replace(job, validation=black))
    assert len(curve(tmp_path / "run")) == 2
