"""Checkpoints and evidence attached to a row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.synthetic_results import full
from typer.testing import CliRunner

from robust_eval.cli.main import app
from robust_eval.core.errors import UserError
from robust_eval.leaderboard import attachments, build, submission
from robust_eval.leaderboard.board import load_board
from robust_eval.leaderboard.row import read_rows
from robust_eval.results import EvalResult, EvidenceRecord

WEIGHTS, IMAGES = b"weights", b"adversarial images"


def row(correct: int = 200, weights: bytes = WEIGHTS) -> EvalResult:
    """A result with the hashes of these files."""
    base = full(correct, name="net.pt")
    checkpoint = base.checkpoint.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
    evidence = EvidenceRecord(
        file="evidence.safetensors", sha256=hashlib.sha256(IMAGES).hexdigest(), images=3
    )
    return base.model_copy(update={"checkpoint": checkpoint, "evidence": evidence})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a result, evidence and checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text(row().to_json())
    (folder / "evidence.safetensors").write_bytes(IMAGES)
    (folder / "net.pt").write_bytes(WEIGHTS)
    return folder


def add_with_attachments(run: Path, board: Path) -> Path:
    return submission.add_row(
        run / "result.json",
        board,
        checkpoint=run / "net.pt",
        evidence=run / "evidence.safetensors",
        replace=True,
    )


def problems_after_build(board: Path) -> list[tuple[str, str]]:
    build.write_pages(load_board(board), read_rows(board))
    return [(Path(problem.file).name, problem.text) for problem in build.check_board(load_board(board))[1]]


def test_attachments_are_stored_with_the_row_and_linked(run: Path, tmp_path: Path) -> None:
    board = tmp_path / "ours"
    result = add_with_attachments(run, board)
    assert attachments.attached_checkpoint(result) == result.with_suffix(".pt")
    assert result.with_suffix(".pt").read_bytes() == WEIGHTS
    evidence = attachments.attached_evidence(result)
    assert evidence is not None
    assert evidence.read_bytes() == IMAGES
    assert problems_after_build(board) == []
    page, table = (board / "index.html").read_text(), (board / "README.md").read_text()
    for what, file in (("checkpoint", result.with_suffix(".pt")), ("evidence", evidence)):
        assert f"[{what}](results/{file.name})" in table
        assert f'<a href="./results/{file.name}">{what}</a>' in page


def test_attachments_are_optional(run: Path, tmp_path: Path) -> None:
    result = submission.add_row(run / "result.json", tmp_path / "ours")
    assert attachments.attached_checkpoint(result) is None
    assert attachments.attached_evidence(result) is None
    assert problems_after_build(tmp_path / "ours") == []


def trained(correct: int, weights: bytes) -> EvalResult:
    """A result whose checkpoint claims a recipe and a seed."""
    made = row(correct, weights)
    claims = {
        "recipe": {"name": "at", "training": {"epochs": 3}},
        "provenance": {"seed": 1, "precision": "32"},
    }
    return made.model_copy(
        update={"checkpoint": made.checkpoint.model_copy(update={"trained_with": claims}), "evidence": None}
    )


def test_files_that_apply_to_the_new_row_are_kept_when_a_row_is_replaced(run: Path, tmp_path: Path) -> None:
    first = add_with_attachments(run, tmp_path / "ours")
    (run / "result.json").write_text(row(210).to_json())
    second = submission.add_row(run / "result.json", tmp_path / "ours", replace=True)
    assert second != first
    assert second.with_suffix(".pt").read_bytes() == WEIGHTS
    assert problems_after_build(tmp_path / "ours") == []
    (run / "net.pth").write_bytes(WEIGHTS)
    again = submission.add_row(second, tmp_path / "ours", replace=True, checkpoint=run / "net.pth")
    assert {path.suffix for path in again.parent.iterdir()} == {".json", ".pth", ".safetensors"}


def test_a_repeated_training_replaces_its_row(run: Path, tmp_path: Path) -> None:
    """Weights trained on another machine have another hash, but the same recipe and seed."""
    board = tmp_path / "ours"
    (run / "result.json").write_text(trained(200, WEIGHTS).to_json())
    submission.add_row(run / "result.json", board, checkpoint=run / "net.pt")
    (run / "result.json").write_text(trained(201, b"trained again").to_json())
    command = ["leaderboard", "add", str(run / "result.json"), str(board), "--replace"]
    output = CliRunner().invoke(app, command).output
    assert [found.result.worst_case.n_robust for found in read_rows(board)] == [201]
    assert output.count("Removed with the replaced row: ") == 2
    assert ".pt\n" in output
    (run / "result.json").write_text(trained(202, b"weights of another machine").to_json())
    submission.add_row(run / "result.json", board)
    assert len(read_rows(board)) == 2, "without --replace both rows are on the board"


def test_a_row_can_be_added_to_another_board_with_its_evidence(run: Path, tmp_path: Path) -> None:
    first = add_with_attachments(run, tmp_path / "ours")
    command = ["leaderboard", "add", str(first), str(tmp_path / "theirs"), "--evidence"]
    assert CliRunner().invoke(app, command).exit_code == 0
    (added,) = (tmp_path / "theirs" / "results").glob("*.json")
    evidence = attachments.attached_evidence(added)
    assert evidence is not None
    assert evidence.read_bytes() == IMAGES


def test_a_row_can_be_replaced_by_itself(run: Path, tmp_path: Path) -> None:
    first = add_with_attachments(run, tmp_path / "ours")
    again = submission.add_row(first, tmp_path / "ours", replace=True, checkpoint=first.with_suffix(".pt"))
    assert again.with_suffix(".pt").read_bytes() == WEIGHTS


@pytest.mark.parametrize("suffix", attachments.CHECKPOINT_SUFFIXES)
def test_a_checkpoint_keeps_its_suffix(run: Path, tmp_path: Path, suffix: str) -> None:
    (run / "net.pt").rename(run / f"net{suffix}")
    result = submission.add_row(run / "result.json", tmp_path / "ours", checkpoint=run / f"net{suffix}")
    assert attachments.attached_checkpoint(result) == result.with_suffix(suffix)
    assert problems_after_build(tmp_path / "ours") == []


def test_attachments_of_another_row_are_refused(run: Path, tmp_path: Path) -> None:
    def refused(match: str, **files: Path) -> None:
        with pytest.raises(UserError, match=match):
            submission.add_row(run / "result.json", tmp_path / "ours", **files)
        assert not (tmp_path / "ours").exists()

    refused("none.pt is not a file", checkpoint=run / "none.pt")
    (run / "other.pt").write_bytes(b"others")
    refused("is not the checkpoint of this row", checkpoint=run / "other.pt")
    refused("is not the evidence of this row", evidence=run / "other.pt")
    (run / "large.pt").write_bytes(bytes(attachments.MAX_BYTES + 1))
    refused("larger than 8 MiB.*Add the row without it", checkpoint=run / "large.pt")
    (run / "result.json").write_text(row().model_copy(update={"evidence": None}).to_json())
    refused("has no evidence. Omit --evidence", evidence=run / "evidence.safetensors")


def test_check_finds_replaced_attachments(run: Path, tmp_path: Path) -> None:
    result = add_with_attachments(run, tmp_path / "ours")
    result.with_suffix(".pt").write_bytes(b"others")
    result.with_name(result.stem + ".evidence.safetensors").write_bytes(bytes(attachments.MAX_BYTES + 1))
    assert sorted(problems_after_build(tmp_path / "ours")) == sorted(
        [
            (f"{result.stem}.pt", "does not have the sha256 that its row records"),
            (
                f"{result.stem}.evidence.safetensors",
                "is larger than 8 MiB: remove it, the row records its hash",
            ),
        ]
    )


def test_a_submission_may_attach_files_to_its_own_rows_only(run: Path, tmp_path: Path) -> None:
    base, theirs = tmp_path / "base" / "ours", tmp_path / "theirs" / "ours"
    for board in (base, theirs):
        board.parent.mkdir()
    ours = submission.add_row(run / "result.json", base)
    add_with_attachments(run, theirs)
    (run / "new.pt").write_bytes(b"new weights")
    (run / "result.json").write_text(row(190, b"new weights").to_json())
    new = submission.add_row(run / "result.json", theirs, checkpoint=run / "new.pt")
    problems = {Path(problem.file).name for problem in submission.check_submission(theirs, base)}
    assert problems == {f"{ours.stem}.pt", f"{ours.stem}.evidence.safetensors"}
    assert new.with_suffix(".pt").is_file()


def test_verify_asks_for_a_missing_checkpoint(run: Path) -> None:
    found = CliRunner().invoke(app, ["verify", str(run / "result.json")])
    assert found.exit_code != 0
    assert "give it with --checkpoint FILE" in str(found.exception)
