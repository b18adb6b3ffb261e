"""Commands run, check and list: results, exit codes and messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.command_line import Run, command_runner, refused
from support.untrained_checkpoint import untrained

from robust_eval.models.architectures import build
from robust_eval.results import read_result
from robust_eval.verification import selftest


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call ``robust-eval`` in an empty folder: (exit code, stdout, stderr), on single long lines."""
    return command_runner(capsys, monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained digits network in this project's format."""
    return untrained(tmp_path_factory.mktemp("checkpoints") / "tiny.pt", width=4, hidden=16)


def test_repeating_a_run_computes_no_units_again(run: Run, checkpoint: Path) -> None:
    words = ("run", str(checkpoint), "--suite", "quick", "--examples", "40")
    code, out, _ = run(*words)
    assert code == 0
    assert "worst case" in out
    assert "95% interval" in out
    (result_file,) = Path("runs").glob("*/result.json")
    first = read_result(result_file)
    assert first.command == "robust-eval run tiny.pt --suite quick --examples 40 --seed 0"
    assert list(first.seconds) == ["loading", "probes", "tuning", "checks"]
    assert "Beside the attacks: loading" in out
    assert first.threat.eps == "0.1", "the default must be the epsilon of the training"
    units = {path: path.stat().st_mtime_ns for path in result_file.parent.glob("units/*")}
    assert run(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in result_file.parent.glob("units/*")} == units
    assert read_result(result_file).columns == first.columns


def test_dry_run_gives_the_reason_against_a_precision(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "robust_eval.models.acceleration.bfloat16.unsupported_reason", lambda _device: "no units here"
    )
    _, out, _ = run("run", str(checkpoint), "--suite", "quick", "--precision", "auto", "--dry-run")
    assert "no units here" in " ".join(line for line in out.splitlines() if line.startswith("  search"))
    code, _, err = run("run", str(checkpoint), "--suite", "quick", "--shard", "1/3", "--dry-run")
    assert code == 2
    assert "--dry-run plans the whole run: leave --shard out" in err


def test_dry_run_prints_units_passes_and_time_and_writes_nothing(run: Run, checkpoint: Path) -> None:
    code, out, _ = run("run", str(checkpoint), "--suite", "full", "--dry-run")
    assert code == 0
    for word in ("loading", "spsa", "fab-t", "square", "5,003", "backwards/image", "total"):
        assert word in out
    assert not Path("runs").exists()


def test_suite_takes_column_ids(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, _, _ = run("run", str(checkpoint), "--suite", "pgd-10,fgsm", "--examples", "20", "--out", "o")
    assert code == 0
    assert list(json.loads((tmp_path / "o" / "result.json").read_text())["columns"]) == [
        "clean",
        "pgd-10",
        "fgsm",
    ]


def test_l2(run: Run, checkpoint: Path) -> None:
    words = ("--suite", "quick", "--norm", "l2", "--eps", "0.5", "--examples", "20", "--out", "o")
    assert run("run", str(checkpoint), *words)[0] == 0
    assert read_result(Path("o/result.json")).threat.norm == "L2"


def test_check_reports_and_flags(run: Run, checkpoint: Path) -> None:
    trained = Path(selftest.__file__).with_name("digits-at.safetensors")
    code, out, _ = run("check", str(trained), "--data", "digits")
    assert code == 0
    assert "digits-cnn" in out
    assert "clean accuracy 93.50% (187/200 of digits, test); 99.00% by the checkpoint's own record" in out
    assert "No flags" in out
    code, out, _ = run("check", str(checkpoint))
    assert code == 1
    assert "collapsed" in out, "an untrained network predicts one class"


def test_check_compares_a_checkpoint_with_its_claims(run: Run, tmp_path: Path) -> None:
    trained = Path(selftest.__file__).with_name("digits-at.safetensors")
    with safe_open(trained, "pt") as file:
        claims = json.loads(file.metadata()["robust_eval"])
    claims["metrics"]["test_clean"] = 1.0
    claims["provenance"] = {**claims.get("provenance", {}), "selected": "test"}
    save_file(load_file(trained), tmp_path / "claims.safetensors", {"robust_eval": json.dumps(claims)})
    code, out, _ = run("check", "claims.safetensors")
    assert code == 0
    assert "warns: clean-accuracy-differs: 93.5% measured, 100.0% in its own record" in out
    assert "warns: selected-on-test" in out


def test_lines_are_not_wrapped_in_a_pipe(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    code, out, _ = run("check", str(checkpoint))
    assert code == 1
    (line,) = (line for line in out.splitlines() if "collapsed" in line)
    assert len(line) > 100
    assert line.endswith("class order and training.")


def test_list_shows_suites_columns_architectures_data_and_attacks(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    for name in ("full", "union", "cw-inf", "wrn-34-10", "preact-resnet-18", "npz", "autoattack"):
        assert name in out


def test_leaderboard_from_two_runs(run: Run, checkpoint: Path) -> None:
    for seed in ("0", "1"):
        folder = f"board/results/{seed}"
        run("run", str(checkpoint), "--suite", "quick", "--examples", "20", "--seed", seed, "--out", folder)
        Path(folder, "result.json").rename(f"board/results/{seed}.json")
    code, out, _ = run("leaderboard", "build", "board", "--title", "Digits")
    assert code == 0
    assert "2 rows" in out
    page = Path("board/README.md").read_text()
    assert page.startswith("# Digits\n")
    assert page.count("[json](results/") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eps", "0"], "epsilon must be above 0"),
        (["--eps", "-8/255"], "epsilon must be above 0"),
        (["--eps", "8/0"], "divides by zero"),
        (["--eps", "8"], r"Did you mean 8/255\?"),
        (["--norm", "l7"], "Unknown norm 'l7'"),
        (["--suite", "ful"], "Did you mean full"),
        (["--suite", "pdg-20"], "Did you mean pgd-20"),
        (["--data", "digitz"], "Did you mean digits"),
        (["--device", "tpu9"], "Unknown device 'tpu9'"),
        (["--device", "cuda:99"], "cuda:99 is not available"),
        (["--arch", "small-cn"], "small-c"),
        (["--normalisation", "cifar11"], "Did you mean"),
        (["--split", "validation"], "Unknown split"),
        (["--examples", "0"], "0"),
        (["--examples", "100000"], "100000"),
        (["--batch-size", "0"], "The batch size must be at least 1"),
        (["--seed", "-1"], "The seed must be 0 or more"),
        (["--data", "npz:missing.npz"], "missing.npz"),
        (["--data", "folder:nowhere"], "nowhere"),
        (["--eps", "1"], "With Linf 1 every image may become any other"),
        (["--out", "/proc/nowhere"], "Cannot write to /proc/nowhere"),
    ],
)
def test_invalid_options_are_refused(run: Run, checkpoint: Path, words: list[str], message: str) -> None:
    refused(run("run", str(checkpoint), "--suite", "fgsm", "--examples", "20", *words), message)


def test_data_with_other_classes_or_image_size_are_refused(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    two = np.zeros((4, 8, 8), np.uint8)
    np.savez(tmp_path / "twelve.npz", x=two, y=np.array([0, 1, 5, 11]))
    refused(run("run", str(checkpoint), "--data", "npz:twelve.npz", "--eps", "0.1"), "has the label 11")
    large = np.zeros((20, 16, 16), np.uint8)
    np.savez(tmp_path / "large.npz", x=large, y=np.arange(20) % 10)
    refused(run("run", str(checkpoint), "--data", "npz:large.npz", "--eps", "0.1"), "8")


def test_files_that_are_not_checkpoints_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>Not found</html>")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, message in (("page.pt", "HTML"), ("empty.pt", "empty"), ("absent.pt", "does not exist")):
        refused(run("run", name, "--data", "digits", "--eps", "0.1"), message)


def test_an_impossible_run_folder_is_refused_before_loading(run: Run, checkpoint: Path) -> None:
    refused(run("run", str(checkpoint), "--out", "/proc/nowhere"), "Cannot write to /proc/nowhere")
    assert "Planned" not in run("run", "absent.pt", "--out", "o")[1]
    assert not Path("o").exists()


def test_a_run_folder_of_another_request_is_refused(run: Run, checkpoint: Path) -> None:
    words = ("run", str(checkpoint), "--suite", "fgsm", "--examples", "20", "--out", "o")
    assert run(*words)[0] == 0
    refused(run(*words, "--seed", "5"), r"another request \(it differs in: seed\)")


def test_epsilon_is_required_for_foreign_data(run: Run, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=images, y=np.arange(40) % 10)
    network = build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=4, hidden=16)
    torch.save(network.state_dict(), tmp_path / "foreign.pt")
    words = ("run", "foreign.pt", "--data", "npz:x.npz", "--normalisation", "none", "--suite", "fgsm")
    refused(run(*words), r"Which epsilon\? Add --eps")
    refused(run("run", "foreign.pt", "--eps", "0.1", "--suite", "fgsm"), "--data")


@pytest.mark.parametrize(
    "words", [["rnu"], ["run"], ["run", "x.pt", "--exmples", "3"], ["run", "x.pt", "--seed", "x"]]
)
def test_misspelt_commands_and_options_are_refused(run: Run, words: list[str]) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert "Traceback" not in err
    assert "Error" in err


def test_a_missing_checkpoint_among_several_is_reported_before_any_work(run: Run, checkpoint: Path) -> None:
    refused(
        run("run", str(checkpoint), "typo.pt", "--suite", "fgsm"), "typo.pt does not exist. Check the path"
    )
    assert not Path("runs").exists()


def test_a_python_file_without_a_function_is_explained(run: Run, tmp_path: Path) -> None:
    network = build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=4, hidden=16)
    torch.save(network.state_dict(), tmp_path / "foreign.pt")
    words = ("run", "foreign.pt", "--arch", "net.py", "--suite", "fgsm", "--data", "digits")
    refused(run(*words), "--arch net.py names no function: write net.py:FUNCTION")


def test_a_dry_run_counts_the_units_that_a_run_has(run: Run) -> None:
    trained = Path(selftest.__file__).with_name("digits-at.safetensors")
    words = ("run", str(trained), "--suite", "quick", "--examples", "40", "--shards", "2")
    _, plan, _ = run(*words, "--dry-run")
    counts = re.findall(r"^\s*│?\s*(?:clean|fgsm|pgd-20)\s*│\s*\S+\s*│\s*(\d+) ", plan, re.MULTILINE)
    run(*words, "--out", "o")
    assert sum(map(int, counts)) == len(list(Path("o/units").iterdir()))
