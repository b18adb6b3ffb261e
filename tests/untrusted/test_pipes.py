"""Named pipes in place of the files of a board or a run are refused: reading one may never end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.command_line import Run, command_runner
from support.fake_workers import TRAINED

from defenses.runs.learning_curve import is_written
from robust_eval.core.errors import UserError
from robust_eval.core.folders import STAGED, settle
from robust_eval.evaluation.executors import ray_addresses
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute

REFUSED = "is a pipe or a device"
RUN = "run net.safetensors --suite fgsm --examples 40 --batch-size 40 --out out"
MAKE_BOARD = (
    "leaderboard add out/result.json b --evidence --checkpoint net.safetensors",
    "leaderboard build b",
)
COMMANDS = (
    "leaderboard check b",
    "leaderboard build b",
    "leaderboard check b --against unchanged",
    "leaderboard add out/result.json b --replace --evidence",
    "verify ROW --checkpoint net.safetensors",
    "gate ROW --min-robust 0",
    "compare ROW ROW",
)

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and the folder ``out`` of its run."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(TRAINED, folder / "net.safetensors")
    options = EvaluationOptions(
        checkpoint=str(folder / "net.safetensors"), suite="fgsm", examples=40, batch_size=40
    )
    execute(prepare(options), folder / "out", command=options.command())
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Run:
    return command_runner(capsys, monkeypatch, folder)


def replace_by_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize(
    "suffix", [".json", ".verification.json", ".safetensors", ".evidence.safetensors", ".curve.csv"]
)
def test_pipes_among_the_results_of_a_board(suffix: str, command: Run, folder: Path) -> None:
    for words in MAKE_BOARD:
        done = command(*words.split())
        assert done[0] == 0, done
    shutil.copytree(folder / "b", folder / "unchanged")
    (row,) = (path for path in (folder / "b" / "results").glob("*.json") if path.name.count(".") == 1)
    replace_by_pipe(row.with_suffix(suffix))
    for words in COMMANDS:
        code, out, err = command(*words.replace("ROW", str(row.relative_to(folder))).split())
        assert code in (0, 1, 2), words
        assert "Traceback" not in err
        assert code == 0 or out or len(err.strip().splitlines()) == 1, (words, err)
        if suffix == ".json" and words.startswith(("gate", "compare", "verify")):
            assert REFUSED in err, words


@pytest.mark.parametrize("words", COMMANDS[:4])
def test_a_pipe_as_the_rules_of_a_board(words: str, command: Run, folder: Path) -> None:
    assert command(*MAKE_BOARD[0].split())[0] == 0
    shutil.copytree(folder / "b", folder / "unchanged")
    replace_by_pipe(folder / "b" / "board.toml")
    code, out, err = command(*words.split())
    assert code in (1, 2)
    assert REFUSED in out + err or "board.toml is not expected in a board's folder" in out


@pytest.mark.parametrize(
    "name", ["request.json", "tuning.json", "first-logits.npy", "diagnosis.json", "units/UNIT", "result.json"]
)
def test_pipes_in_a_run_folder(name: str, command: Run, folder: Path) -> None:
    """They are refused, or what they replace is made again."""
    unit = sorted((folder / "out" / "units").iterdir())[0].name
    replace_by_pipe(folder / "out" / name.replace("UNIT", unit))
    code, _, err = command(*RUN.split())
    assert code == 0 or (code == 2 and err.startswith("Error: ") and len(err.splitlines()) == 1), err


def test_a_pipe_as_the_plan_of_a_change(tmp_path: Path) -> None:
    (tmp_path / STAGED).mkdir()
    os.mkfifo(tmp_path / STAGED / "plan.json")
    with pytest.raises(UserError, match="is not the plan of a change. Delete"):
        settle(tmp_path)


def test_a_pipe_as_a_learning_curve(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "curve.csv")
    assert not is_written(tmp_path / "curve.csv", [])


def test_a_pipe_as_the_note_of_a_ray_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray").mkdir()
    os.mkfifo(tmp_path / "ray" / "ray_current_cluster")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_addresses.find_cluster(None) is None
