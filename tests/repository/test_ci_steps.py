"""The steps of action.yml and of the leaderboard workflow, run locally."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.synthetic_results import full

from robust_eval.cli.main import main
from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.leaderboard import build, submission
from robust_eval.leaderboard.board import RULES_FILE, load_board
from robust_eval.leaderboard.row import read_rows
from robust_eval.models import architectures
from robust_eval.models.loading.checkpoint import CheckpointDescription, save
from robust_eval.results import read_result

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("robust-eval")
WORKFLOWS = ROOT / ".github" / "workflows"


def shell(
    script: Path, *arguments: str | Path, cwd: Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with a clean environment and the variables of the step."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    environment = {**inherited, "ROBUST_EVAL": str(COMMAND), **settings}
    return subprocess.run(
        [script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return found


def settings(**given: str) -> dict[str, str]:
    """The environment that the action's last step has for these inputs."""
    inputs = {name: entry.get("default", "") for name, entry in action()["inputs"].items()}
    assert given.keys() <= inputs.keys()
    inputs |= given
    last = action()["runs"]["steps"][-1]
    assert last["run"] == '"$GITHUB_ACTION_PATH/.ci/evaluate"'
    return {
        name: inputs[re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", value)[1]]  # type: ignore[index]
        for name, value in last["env"].items()
    }


@pytest.fixture(scope="module")
def user_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network and images, 90% of which it classifies correctly."""
    folder = tmp_path_factory.mktemp("ci")
    torch.manual_seed(0)
    network = architectures.build(
        "digits-cnn", classes=10, channels=1, image_size=(8, 8), width=4, hidden=16
    ).eval()
    x = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        list(network.parameters())[-1].sub_(network(pixels).mean(0))
        y = network(pixels).argmax(1).numpy()
    y[::10] = (y[::10] + 1) % 10
    np.savez(folder / "images.npz", x=x, y=y, class_names=[str(k) for k in range(10)])
    save(
        folder / "-net.pt",
        network,
        CheckpointDescription(
            architecture=Architecture("digits-cnn", {"width": 4, "hidden": 16}),
            normalisation=Normalisation("none"),
            classes=10,
            channels=1,
            image_size=(8, 8),
            threat=parse_threat("Linf", "0.02"),
        ),
    )
    (folder / "-net.pt").rename(folder / "net.pt")
    return folder


def with_only(folder: Path, command: str) -> dict[str, str]:
    """Settings with a script that does nothing except for one command of ``robust-eval``."""
    script = folder / "only"
    script.write_text(f'#!/bin/sh\ncase "$*" in "{command} "*) exec "{COMMAND}" "$@";; esac\n')
    script.chmod(0o755)
    return {"ROBUST_EVAL": str(script)}


def test_the_action_evaluates_gates_adds_builds_and_checks(user_repository: Path) -> None:
    (user_repository / "summary.md").touch()
    given = settings(
        checkpoint="net.pt",
        data="npz:images.npz",
        suite="fgsm",
        device="cpu",
        board="leaderboards/ours",
        **{"min-robust": "30"},
    )
    report = {
        "GITHUB_OUTPUT": str(user_repository / "output"),
        "GITHUB_STEP_SUMMARY": str(user_repository / "summary.md"),
    }
    run = shell(ROOT / ".ci" / "evaluate", cwd=user_repository, **given, **report)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (user_repository / "output").read_text() == "result=runs/ci/result.json\n"
    assert "tables and rules are correct" in run.stdout
    board = user_repository / "leaderboards" / "ours"  # its parent did not exist
    (row,) = read_rows(board)
    assert row.result == read_result(user_repository / "runs" / "ci" / "result.json")
    assert (user_repository / "summary.md").read_text() == (board / "README.md").read_text()
    assert (board / "index.html").is_file()

    # The same inputs again, as on the next push: the row replaces itself. The result exists, so that the
    # commands that would only find it, and judge it, again are left out.
    adding = with_only(user_repository, "leaderboard add")
    run = shell(ROOT / ".ci" / "evaluate", cwd=user_repository, **given | adding)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(read_rows(board)) == 1

    # A minimum that the run does not reach: it fails before a row is added.
    higher = given | {"MIN_ROBUST": "99", "BOARD": "other", "COLUMN": "fgsm"}
    gating = with_only(user_repository, "gate")
    run = shell(ROOT / ".ci" / "evaluate", cwd=user_repository, **higher | gating)
    assert run.returncode == 1
    assert "below the minimum of 99%" in run.stdout
    assert not (user_repository / "other").exists()


def test_untrusted_settings_are_not_executed(
    user_repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that would have an effect if they were parsed by a shell or as options."""
    show = user_repository / "show"
    show.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 2\n')
    show.chmod(0o755)
    for hostile in ("$(touch pwned).pt; touch pwned", "--help"):
        given = {"CHECKPOINT": hostile, "SUITE": hostile, "ROBUST_EVAL": str(show)}
        run = shell(ROOT / ".ci" / "evaluate", cwd=user_repository, **given)
        assert run.returncode == 2, run.stdout
        words = run.stdout.splitlines()
        assert words == ["run", "--suite", hostile, "--out", "runs/ci", "--", hostile]
        # After "--" a name is a checkpoint, whatever it looks like.
        monkeypatch.setattr(sys, "argv", ["robust-eval", "run", "--suite", "fgsm", *words[-2:]])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert "does not exist" in capsys.readouterr().err
    assert not (user_repository / "pwned").exists()
    assert shell(ROOT / ".ci" / "evaluate", cwd=user_repository).returncode != 0


@pytest.fixture
def checkouts(tmp_path: Path) -> tuple[Path, Path]:
    """(submitted, base), each with one board of one row; the submission contains code that must not run."""
    board = tmp_path / "base" / "leaderboards" / "ours"
    board.mkdir(parents=True)
    (tmp_path / "result.json").write_text(full(200, name="first.pt").to_json())
    submission.add_row(tmp_path / "result.json", board)
    rebuild(board)
    shutil.copytree(tmp_path / "base", tmp_path / "submitted")
    evil = f"import pathlib; pathlib.Path({str(tmp_path / 'pwned')!r}).touch()\n"
    for name in ("sitecustomize.py", "conftest.py", "robust_eval.py", "typer.py", "json.py"):
        (tmp_path / "submitted" / name).write_text(evil)
    return tmp_path / "submitted", tmp_path / "base"


def rebuild(board: Path) -> None:
    build.write_pages(load_board(board), read_rows(board))


def checked(checkouts: tuple[Path, Path]) -> tuple[int, str]:
    run = shell(ROOT / ".ci" / "check-boards", *checkouts, cwd=checkouts[0])
    assert not (checkouts[0].parent / "pwned").exists()
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout + run.stderr


def test_the_published_boards_pass(tmp_path: Path) -> None:
    """Checked against themselves; leaderboards/ must contain nothing but boards."""
    shutil.copytree(ROOT / "leaderboards", tmp_path / "leaderboards")
    status, output = checked((tmp_path, ROOT))
    assert (status, output.count("tables and rules are correct")) == (
        0,
        len(list(ROOT.glob("leaderboards/*/results"))),
    ), output


def test_a_submission_is_checked_as_data(checkouts: tuple[Path, Path]) -> None:
    board = checkouts[0] / "leaderboards" / "ours"
    (checkouts[0] / "result.json").write_text(full(205, name="second.pt").to_json())
    submission.add_row(checkouts[0] / "result.json", board)
    rebuild(board)
    code, text = checked(checkouts)
    assert code == 0, text
    assert "2 rows, tables and rules are correct" in text

    # An edited row, an outdated table, a removed board, a link and an unsafe name are all reported.
    first = next((board / "results").glob("first-*.json"))
    first.write_text(full(100, name="first.pt").to_json())
    (checkouts[0] / "leaderboards" / "link").symlink_to("/")
    (checkouts[0] / "leaderboards" / "a b").mkdir()
    (checkouts[1] / "leaderboards" / "old").mkdir()
    code, text = checked(checkouts)
    assert code == 1
    for sentence in (
        "was changed",
        "README.md does not agree with the results",
        "leaderboards/link is not a board's folder",
        "leaderboards/a?b has an unsafe name",
        "leaderboards/old was removed",
    ):
        assert sentence in text


def test_a_new_board_may_be_submitted_without_rules_and_verifications(checkouts: tuple[Path, Path]) -> None:
    board = checkouts[0] / "leaderboards" / "new"
    submission.add_row(checkouts[1].parent / "result.json", board)
    rebuild(board)
    code, text = checked(checkouts)
    assert code == 0, text
    rules = (
        'title = "Mine"',
        'data = ["digits"]',
        'norm = "Linf"',
        'eps = "0.1"',
        'suite = "full"',
        "minimum_n = 1",
    )
    (board / RULES_FILE).write_text("\n".join(rules))
    rebuild(board)
    code, text = checked(checkouts)
    assert code == 1
    assert "changes the board's rules" in text


def steps(path: Path) -> list[dict[str, Any]]:
    """Every step of a workflow, or of the action."""
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "runs" in value:
        found: list[dict[str, Any]] = value["runs"]["steps"]
        return found
    return [step for job in value["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize(
    "path", [ROOT / "action.yml", *sorted(WORKFLOWS.glob("*.yml"))], ids=lambda path: path.name
)
def test_no_expression_becomes_part_of_a_script(path: Path) -> None:
    assert all("${{" not in step.get("run", "") for step in steps(path))
    assert "${{ secrets." not in path.read_text(encoding="utf-8")
    assert "github.token" not in path.read_text(encoding="utf-8")


def test_submitted_rows_are_checked_by_the_code_of_the_base_branch() -> None:
    workflow = yaml.safe_load((WORKFLOWS / "leaderboard.yml").read_text(encoding="utf-8"))
    records = workflow["jobs"]["records"]["steps"]
    base, submitted = (step["with"] for step in records if "checkout@" in step.get("uses", ""))
    assert base["ref"].startswith("${{ github.base_ref")
    assert (base["path"], submitted["path"]) == ("base", "submitted")
    assert submitted["sparse-checkout"] == "/leaderboards/"
    assert submitted["sparse-checkout-cone-mode"] is False
    scripts = [step["run"] for step in records if "run" in step]
    assert scripts == ["make -C base setup", "base/.ci/check-boards submitted base"]
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())


def test_the_workflow_uses_existing_inputs_and_files() -> None:
    workflow = yaml.safe_load((WORKFLOWS / "leaderboard.yml").read_text(encoding="utf-8"))
    (given,) = [s["with"] for s in workflow["jobs"]["evaluate"]["steps"] if s.get("uses") == "./"]
    assert given.keys() <= action()["inputs"].keys()
    assert (ROOT / given["checkpoint"]).is_file()
