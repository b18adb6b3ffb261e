"""``robust-eval landscape`` hessian, scattering, connectivity and linear on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import small_scans
from support.command_line import Run, command_runner, leave_undrawn, refused
from torch import nn

from robust_eval.core.types import Architecture, CheckpointRef, Normalisation
from robust_eval.landscape.awp.points import weight_point
from robust_eval.landscape.awp.scan import run_scan
from robust_eval.landscape.checkpoints import ComparedModel
from robust_eval.landscape.liu import connectivity, gradient_scattering, hessian_spectrum
from robust_eval.landscape.liu.connectivity import InterpolatedModel, InterpolationPoint
from robust_eval.landscape.liu.hessian import Hessian
from robust_eval.models.normalisation import NONE, Normalised

SMALL = ("--examples", "12", "--steps", "2", "--eps", "0.1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call ``robust-eval landscape`` in a folder with two checkpoints: (exit code, stdout, stderr)."""
    for seed, name in enumerate(("at", "awp")):
        small_scans.write(tmp_path / f"{name}.pt", seed=seed)

    return command_runner(capsys, monkeypatch, tmp_path, "landscape")


def written(stem: str) -> dict[str, Any]:
    assert {p.suffix for p in Path(stem).parent.glob(f"{Path(stem).name}.*")} == {".png", ".svg", ".json"}
    found: dict[str, Any] = json.loads(Path(f"{stem}.json").read_text())
    return found


def test_hessian(run: Run) -> None:
    code, out, _ = run("hessian", "at.pt", "awp.pt", *SMALL, "--count", "2", "--out", "h")
    assert code == 0, out
    found = written("h/hessian")
    assert [(e["label"], e["rank"]) for e in found["eigenvalues"]] == [
        ("at", 1),
        ("at", 2),
        ("awp", 1),
        ("awp", 2),
    ]
    assert abs(found["eigenvalues"][0]["value"]) >= abs(found["eigenvalues"][1]["value"])
    assert found["data"]["split"] == "train"


def test_an_interrupted_hessian_continues_with_the_missing_eigenvalues(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_undrawn(monkeypatch)
    words = ("hessian", "at.pt", *SMALL, "--count", "3")
    assert run(*words, "--out", "uninterrupted")[0] == 0
    original = hessian_spectrum.top_eigenpairs
    calls: list[int] = []

    def interrupted(problem: Hessian, count: int, **others: Any) -> Any:
        calls.append(count)
        if calls == [1, 2]:
            raise KeyboardInterrupt
        return original(problem, count, **others)

    monkeypatch.setattr(hessian_spectrum, "top_eigenpairs", interrupted)
    code, out, _ = run(*words, "--out", "resumed")
    assert code == 130
    assert "Finished work is in resumed: run the same command to continue" in out
    assert run(*words, "--out", "resumed")[0] == 0
    assert calls == [1, 2, 2, 3]
    assert written("resumed/hessian")["eigenvalues"] == written("uninterrupted/hessian")["eigenvalues"]
    # A truncated vector is computed again.
    vector = sorted(Path("resumed/units").glob("*.npy"))[0]
    vector.write_bytes(vector.read_bytes()[:50])
    assert run(*words, "--out", "resumed")[0] == 0
    assert len(calls) == 5


def test_scattering(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("scattering", "at.pt", "awp.pt", *SMALL, "--epsilons", "0,1/2,1", "--neighbours", "2")
    code, out, _ = run(*words, "--out", "s")
    assert code == 0, out
    found = written("s/scattering")["scatter"]
    assert [(s["label"], s["ratio"]) for s in found][:4] == [
        ("at", "0"),
        ("at", "1/2"),
        ("at", "1"),
        ("awp", "0"),
    ]
    assert found[0]["perturbation"] is None
    # At epsilon 0 all points have the same images, which give the same gradient at w.
    assert found[0]["batch_gradient_at_w"] == pytest.approx(1)
    assert found[2]["eps"] == pytest.approx(0.1)
    assert all(-1 <= s[name] <= 1 + 1e-6 for s in found for name in ("gradient", "batch_gradient"))
    leave_undrawn(monkeypatch)
    assert run(*words, "--names", "one,two", "--out", "s")[0] == 0
    again = written("s/scattering")["scatter"]
    assert [s["label"] for s in again] == ["one"] * 3 + ["two"] * 3
    assert [s["gradient"] for s in again] == [s["gradient"] for s in found]


def test_neighbours_at_distance_zero_have_cosine_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_undrawn(monkeypatch)
    monkeypatch.setattr(gradient_scattering, "parse_radius", lambda _: 0.0)
    assert run("scattering", "at.pt", *SMALL, "--budgets", "1", "--out", "s")[0] == 0
    (found,) = written("s/scattering")["scatter"]
    for name in ("perturbation", "gradient", "batch_gradient", "batch_gradient_at_w"):
        assert found[name] == pytest.approx(1, abs=1e-6)


def test_cosines() -> None:
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert gradient_scattering._mean_cosine([one, other]) == pytest.approx(0.5)
    assert gradient_scattering._mean_batch_cosine([list(one), list(other)]) == pytest.approx(0.5)


def test_connectivity(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("connectivity", "at.pt", "awp.pt", *SMALL, "--points", "5")
    code, out, _ = run(*words, "--out", "c")
    assert code == 0, out
    assert "Barrier" in out
    found = written("c/connectivity")
    assert [p["t"] for p in found["points"]] == [0, 0.25, 0.5, 0.75, 1]
    assert found["running_statistics"] == "the network has none"
    leave_undrawn(monkeypatch)
    same = ("connectivity", "at.pt", "at.pt", *SMALL, "--points", "3", "--names", "a,b", "--out", "same")
    assert run(*same)[0] == 0
    flat = written("same/connectivity")
    assert len({p["loss"] for p in flat["points"]}) == 1
    assert flat["barrier_nats"] == 0
    assert flat["parameter_distance"] == 0


def test_the_reversed_line_has_the_same_losses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_undrawn(monkeypatch)
    words = ("--examples", "12", "--steps", "2", "--eps", "0.1", "--points", "3")
    assert run("connectivity", "at.pt", "awp.pt", *words, "--out", "c")[0] == 0
    assert run("connectivity", "awp.pt", "at.pt", *words, "--out", "d")[0] == 0
    one, other = written("c/connectivity")["points"], written("d/connectivity")["points"]
    assert [p["loss"] for p in one] == pytest.approx([p["loss"] for p in reversed(other)])


def test_the_barrier_is_above_the_line_between_the_ends() -> None:
    def at(t: float, loss: float | None) -> InterpolationPoint:
        return InterpolationPoint(t, loss, 0.5, 0.5)

    points = [at(0, 1.0), at(0.5, 4.0), at(1, 2.0)]
    assert connectivity.barrier(points) == pytest.approx(2.5)
    assert connectivity.barrier([at(0, 2.0), at(0.5, 0.5), at(1, 2.0)]) == 0
    assert connectivity.barrier([at(0, 2.0), at(0.5, None), at(1, 2.0)]) is None


def with_batchnorm(seed: int) -> ComparedModel:
    """A small untrained network with BatchNorm."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    ref = CheckpointRef(f"{seed}.pt", "0" * 64, Architecture("x"), 2, Normalisation("none"), "foreign")
    return ComparedModel(str(seed), Normalised(network, NONE).eval(), ref)


def test_running_statistics_are_recomputed_and_checkpoints_not_modified() -> None:
    a, b, x = with_batchnorm(0), with_batchnorm(1), torch.rand(20, 1, 8, 8)
    before = {key: value.clone() for key, value in a.model.state_dict().items()}
    middle = InterpolatedModel(a, b, x, recompute=True, batch_size=10)
    middle.set_position(0.5)
    convolution, norm = middle.model.network[0], middle.model.network[1]
    inner = convolution(x)
    torch.testing.assert_close(norm.running_mean, inner.mean((0, 2, 3)))
    assert not norm.training
    uneven = InterpolatedModel(a, b, x[:13], recompute=True, batch_size=12)
    uneven.set_position(0.5)
    torch.testing.assert_close(uneven.model.network[1].running_mean, inner[:13].mean((0, 2, 3)))
    torch.testing.assert_close(
        convolution.weight, (a.model.network[0].weight + b.model.network[0].weight) / 2
    )
    assert all(torch.equal(value, before[key]) for key, value in a.model.state_dict().items())
    plain = InterpolatedModel(a, b, x, recompute=False, batch_size=10)
    plain.set_position(1)
    assert all(torch.equal(v, b.model.state_dict()[k]) for k, v in plain.model.state_dict().items())
    assert connectivity.has_batchnorm(a.model)


def test_networks_with_different_arguments_cannot_be_interpolated(run: Run, tmp_path: Path) -> None:
    """Their weights have equal names and shapes, but they are different functions."""
    for name, shortcut in (("one", "activated"), ("two", "input")):
        small_scans.write(tmp_path / f"{name}.pt", arch="preact-resnet-18", width=2, shortcut=shortcut)
    outcome = run("connectivity", "one.pt", "two.pt", "--data", "digits", "--points", "3", *SMALL)
    refused(outcome, "one and two differ in their architecture or its arguments and cannot be interpolated")


def test_two_networks_of_one_file_are_distinct(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_undrawn(monkeypatch)
    states = [torch.load(tmp_path / f"{name}.pt", weights_only=True)["state_dict"] for name in ("at", "awp")]
    torch.save({"state_dict": states[0], "ema": states[1]}, tmp_path / "c.pt")
    both = ("c.pt#state_dict", "c.pt#ema", "--names", "plain,ema", "--data", "digits", *SMALL)
    code, out, err = run("hessian", *both, "--normalisation", "none", "--count", "1", "--out", "h")
    assert code == 0, (out, err)
    one, other = (found["value"] for found in written("h/hessian")["eigenvalues"])
    assert one != other
    options = replace(small_scans.OPTIONS, normalisation="none")
    scan = small_scans.scan(*(tmp_path / f"c.pt#{part}" for part in ("state_dict", "ema")), options=options)
    found = run_scan(scan, [weight_point()], tmp_path / "scan")
    one, other = (measured.loss for measured in found.values())
    assert one != other


def test_linear(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("linear", "--classes", "3,8", "--points", "4", "--steps", "100", "--out", "l")
    assert code == 0, out
    found = written("l")
    assert found["points"][-1]["weight_norm"] == 0
    assert found["points"][0]["weight_norm"] > 0
    assert found["first_budget_with_w_zero"] >= found["predicted_threshold"] - 1e-9
    assert "all 10 classes: threshold" in out
    leave_undrawn(monkeypatch)
    assert run("linear", "--norm", "l2", "--points", "4", "--steps", "50", "--out", "m")[0] == 0
    assert written("m")["predicted_threshold_softmax_all_classes"] is None


def test_invalid_input_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_undrawn(monkeypatch)
    small_scans.write(tmp_path / "wide.pt", width=4)
    Path("file").touch()
    for command in ("hessian", "scattering", "connectivity"):
        refused(
            run(command, "at.pt", "wide.pt", *SMALL), "their weights cannot be compared.*of one architecture"
        )
        refused(
            run(command, "at.pt", "awp.pt", *SMALL, "--batch-size", "0"), "--batch-size must be at least 1"
        )
        refused(run(command, "at.pt", "awp.pt", *SMALL, "--seed", "-1"), "--seed must be 0 or more")
        refused(run(command, "at.pt", "awp.pt", *SMALL, "--out", "file/x"), "Cannot write to file")
        refused(run(command, "at.pt", "nowhere.pt", *SMALL), "nowhere.pt")
    refused(run("hessian", "at.pt", "--count", "0"), "--count must be at least 1, got 0")
    refused(run("hessian", "at.pt", "--tolerance", "2"), "--tolerance must be between 0 and 1")
    refused(run("scattering", "at.pt", "--epsilons", "-1,1"), "--epsilons must be 0 or more")
    refused(
        run("scattering", "at.pt", *SMALL, "--eps", "0.1", "--budgets", "100"),
        r"--epsilons 100 times epsilon 0.1 is more than the range of pixels, \[0, 1\]: use at most 10",
    )
    refused(run("scattering", "at.pt", "--radius", "0"), "--radius must be above 0 and at most 1")
    refused(run("scattering", "at.pt", "--neighbours", "0"), "--neighbours must be at least 1")
    refused(run("connectivity", "at.pt", "awp.pt", "--points", "2"), "--points must be at least 3")
    refused(run("linear", "--classes", "3"), "--classes needs two different classes")
    refused(run("linear", "--classes", "3,a"), "Unknown class 'a'")
    refused(run("linear", "--span", "1"), "--span must be above 1")
    refused(run("linear", "--out", "file/x", "--points", "3", "--steps", "1"), "Cannot write to file")


def test_another_request_in_the_same_folder_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_undrawn(monkeypatch)
    assert run("connectivity", "at.pt", "awp.pt", *SMALL, "--points", "3", "--out", "c")[0] == 0
    refused(
        run("connectivity", "at.pt", "awp.pt", *SMALL, "--seed", "1", "--out", "c"),
        "contains a run of another",
    )
