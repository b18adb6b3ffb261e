"""Add rows to a board, build and check it, and check submissions."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.synthetic_results import bits, full, result

from robust_eval.core import folders
from robust_eval.core.errors import UserError
from robust_eval.core.text import printable
from robust_eval.leaderboard import build, companions, submission
from robust_eval.leaderboard.board import load_board
from robust_eval.leaderboard.row import Row, read_rows
from robust_eval.results import EvalResult, content_digest, read_result, verification_record
from robust_eval.results.verification_record import CheckRecord, Verification

OWN = 'title = "Ours"\ndata = ["digits"]\nnorm = "Linf"\neps = "0.1"\nsuite = "full"\nminimum_n = 400\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A board with one row, built."""
    board = tmp_path / "ours"
    board.mkdir()
    (board / "board.toml").write_text(OWN)
    submission.add_row(write_result(tmp_path, full(200, name="first.pt")), board)
    rebuild(board)
    return board


def write_result(folder: Path, row: EvalResult, name: str = "result.json") -> Path:
    path = folder / name
    path.write_text(row.to_json())
    return path


def rebuild(folder: Path) -> None:
    build.write_pages(load_board(folder), read_rows(folder))


def problems(folder: Path, base: Path | None = None) -> list[tuple[str, str]]:
    _, problems = build.check_board(load_board(folder, None, base), base)
    return [(problem.file, problem.text) for problem in problems]


def verified(path: Path, *, passed: bool = True) -> Path:
    """Write a verification of a result file."""
    record = Verification(
        result=content_digest(json.loads(path.read_text())),
        checks=(CheckRecord(name="still wrong", passed=passed, detail=""),),
        trusted=(),
        forwards=1,
        seconds=1,
        share=None,
        robust_eval="0.1.0",
        device="cpu",
        created="2026-01-01",
    )
    record_file = verification_record.path_beside(path)
    verification_record.write(record_file, record)
    return record_file


def test_a_result_is_added_built_and_checked(folder: Path) -> None:
    (file,) = (folder / "results").iterdir()
    assert file.name.startswith("first-")
    assert len(file.name) == len("first-12345678.json")
    assert read_result(file) == full(200, name="first.pt")
    assert problems(folder) == []
    assert "| 1 | first.pt |" in (folder / "README.md").read_text()
    assert "first.pt" in (folder / "index.html").read_text()


def test_the_first_row_creates_the_board(tmp_path: Path) -> None:
    path = submission.add_row(write_result(tmp_path, full(200)), tmp_path / "new")
    assert path.parent == tmp_path / "new" / "results"
    partial = result({"clean": bits(400, 360)}, suite="full", status="partial")
    with pytest.raises(UserError, match="does not belong on other: it is partial"):
        submission.add_row(write_result(tmp_path, partial), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(
        UserError, match="belong on digits: .*; it has 300 examples; the board requires at least"
    ):
        submission.add_row(write_result(tmp_path, full(200, n=300, clean=290)), tmp_path / "digits")
    with pytest.raises(UserError, match="is not a folder. Create it first"):
        submission.add_row(write_result(tmp_path, full(200)), tmp_path / "no" / "such")


def test_a_new_board_is_announced(tmp_path: Path) -> None:
    logged: list[str] = []
    submission.add_row(write_result(tmp_path, full(200)), tmp_path / "digist", log=logged.append)
    assert logged[0] == f"New board: {tmp_path / 'digist'}, which has no rules and accepts any row."
    logged.clear()
    changed = write_result(tmp_path, full(201))
    submission.add_row(changed, tmp_path / "digist", replace=True, log=logged.append)
    assert [line.partition(":")[0] for line in logged] == ["Added", "Removed with the replaced row"]


def test_a_folder_with_other_files_is_not_a_board(tmp_path: Path) -> None:
    (tmp_path / "run" / "units").mkdir(parents=True)
    result = write_result(tmp_path / "run", full(200))
    with pytest.raises(UserError, match=r"run is not a board but contains other files \(result.json\)"):
        submission.add_row(result, tmp_path / "run")
    assert not (tmp_path / "run" / "results").exists()


def add_in_process(result: Path, folder: Path) -> None:
    with suppress(UserError):
        submission.add_row(result, folder)


def test_rows_added_at_once_are_all_on_the_board(folder: Path, tmp_path: Path) -> None:
    """Four processes; two of them add a row for the same checkpoint, of which one is refused."""
    results = [
        write_result(tmp_path, full(200 + number, name=name), f"{number}.json")
        for number, name in enumerate(("a.pt", "b.pt", "c.pt", "c.pt"))
    ]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_in_process, args=(result, folder)) for result in results]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(row.name for row in read_rows(folder)) == ["a.pt", "b.pt", "c.pt", "first.pt"]
    rebuild(folder)
    assert problems(folder) == []


def test_left_temporary_files_are_removed_and_those_of_others_ignored(folder: Path) -> None:
    """Older releases left them among the results when they were killed."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = folder / "results" / f".first.json.{ended.pid}.tmp"
    other = folder / "results" / f".first.json.{os.getppid()}.tmp"
    left.touch()
    other.touch()
    assert problems(folder) == []
    assert not left.exists()
    assert other.exists()


def test_an_interrupted_change_is_completed_but_not_in_a_submission(folder: Path, base: Path) -> None:
    (row,) = (folder / "results").iterdir()
    (folder / ".change").mkdir()
    (folder / ".change" / "plan.json").write_text(
        json.dumps({"write": [], "remove": [f"results/{row.name}"]})
    )
    message = "is a change that was interrupted: run leaderboard check without --against"
    assert (".change", message) in problems(folder, base)
    assert row.exists(), "the files of a submission are only read"
    with pytest.raises(UserError, match="contains no result files"):
        problems(folder)
    assert not row.exists()


def test_a_board_that_cannot_be_written_is_checked_without_a_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folders, "_acquire", acquire)
    assert problems(folder) == []
    with pytest.raises(UserError, match="Cannot write to .*Permission denied"):
        submission.add_row(next((folder / "results").iterdir()), folder, replace=True)
    (folder / ".change").mkdir()
    with pytest.raises(UserError, match="Cannot write to .*Permission denied"):
        problems(folder)


def test_a_verification_is_recorded_only_for_the_content_that_was_verified(folder: Path) -> None:
    (row,) = (folder / "results").iterdir()
    record = verification_record.read(verified(row))
    verification_record.path_beside(row).unlink()
    assert companions.record_verification(row, record) == verification_record.path_beside(row)
    assert companions.record_verification(row, record) is None
    row.write_text(full(220, name="first.pt").to_json())
    with pytest.raises(UserError, match="has changed since it was read: verify it again"):
        companions.record_verification(row, record)


def test_a_file_is_named_after_the_recipe_if_possible(folder: Path, tmp_path: Path) -> None:
    for recipe, stem in (("trades-awp", "trades-awp"), ("../x", "net"), ("<b>", "net")):
        row = Row("r.json", full(210, name="net.pt", trained_with={"recipe": {"name": recipe}}))
        assert submission.file_name(row).startswith(f"{stem}-")


def test_one_row_for_one_checkpoint(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"already has a row for this checkpoint: results/first-.*Add --replace"
    ):
        submission.add_row(write_result(tmp_path, full(210, name="first.pt")), folder)
    submission.add_row(write_result(tmp_path, full(210, name="second.pt")), folder)
    assert len(read_rows(folder)) == 2
    (first,) = folder.glob("results/first-*.json")
    verified(first)
    again = submission.add_row(write_result(tmp_path, full(210, name="first.pt")), folder, replace=True)
    assert sorted(path.name for path in folder.glob("results/first-*")) == [again.name], "no companion files"
    assert {row.result.worst_case.n_robust for row in read_rows(folder)} == {210}
    submission.add_row(again, folder, replace=True)
    assert again.is_file()


def test_a_row_that_breaks_a_rule_is_not_added(folder: Path, tmp_path: Path) -> None:
    partial = result({"clean": bits(400, 360)}, suite="full", status="partial")
    with pytest.raises(UserError, match="does not belong on ours: it is partial: fgsm"):
        submission.add_row(write_result(tmp_path, partial), folder)
    with pytest.raises(UserError, match="it is under Linf 8/255; the board is for Linf 0.1"):
        submission.add_row(write_result(tmp_path, full(200, eps="8/255", name="b.pt")), folder)
    assert len(read_rows(folder)) == 1


def test_a_verification_of_the_same_content_is_added_too(folder: Path, tmp_path: Path) -> None:
    path = write_result(tmp_path, full(205, name="second.pt"))
    verified(path)
    filed = submission.add_row(path, folder)
    assert verification_record.path_beside(filed).is_file()
    assert {row.name: row.standing for row in read_rows(folder)} == {
        "first.pt": "self-reported",
        "second.pt": "verified",
    }
    rebuild(folder)
    assert problems(folder) == []
    assert "| verified |" in (folder / "README.md").read_text()
    value = json.loads(filed.read_text())
    value["command"] = "edited"
    filed.write_text(json.dumps(value))
    assert (
        "has a verification of different content: run robust-eval verify again"
        in dict(problems(folder)).values()
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("at-awp_1.2.safetensors", "at-awp_1.2"),
        ("robustbench:Wu2020Adversarial@Linf", "robustbench-Wu2020Adversarial-Linf"),
        ("my net (1).pth", "my-net-1"),
        ("con", "con"),
        ("a" * 80, "a" * 80),
    ],
)
def test_names_are_converted_to_file_names(name: str, stem: str) -> None:
    found = submission.file_name(Row("r.json", full(200, name=name)))
    assert found[:-14] == stem
    assert submission.FILE_NAME.fullmatch(found[:-14])


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/x.pt",
        "a/b.pt",
        "a\\b.pt",
        "..",
        "x..y",
        ".hidden",
        "<script>alert(1)</script>",
        "a|b",
        "\u202egnp.pt",
        "x\ny",
        "caf\u00e9",
        "a" * 81,
        "",
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a file name. Rename it") as caught:
        submission.add_row(write_result(tmp_path, full(200, name=name)), tmp_path / "board")
    assert "\n" not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    assert not (tmp_path / "board").exists()


def test_symbolic_links_are_refused(folder: Path, tmp_path: Path) -> None:
    secret = write_result(tmp_path, full(150, name="secret.pt"), "secret.json")
    (folder / "results" / "x.json").symlink_to(secret)
    with pytest.raises(UserError, match="is a symbolic link out of the board"):
        read_rows(folder)
    assert problems(folder) == [("results/x.json", "is not expected among results")]
    shutil.rmtree(folder / "results")
    (tmp_path / "elsewhere").mkdir()
    (folder / "results").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link out of the board"):
        submission.add_row(write_result(tmp_path, full(200)), folder)
    assert not list((tmp_path / "elsewhere").iterdir())


def truncate(path: Path) -> None:
    path.write_text(path.read_text()[:200])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, row: truncate(row), "is malformed: .* not readable as JSON .* Is it truncated"),
        (lambda f, row: row.write_text(row.read_text().replace('"n": 400', '"n": NaN', 1)), "contains NaN"),
        (
            lambda f, row: row.write_text(row.read_text().replace('version": 1', 'version": 2', 1)),
            "newer than 1",
        ),
        (lambda f, row: (f / "README.md").write_text("mine"), "does not agree with the results: run"),
        (lambda f, row: (f / "index.html").unlink(), "is missing: run robust-eval leaderboard build"),
        (lambda f, row: (f / "evil.sh").write_text("rm"), "is not expected in a board's folder"),
        (lambda f, row: (f / "results" / "x.txt").write_text(""), "is not expected among results"),
        (lambda f, row: (f / "results" / "d.json").mkdir(), "is not expected among results"),
        (lambda f, row: row.rename(row.with_name("a b.json")), "has an unsafe name"),
        (lambda f, row: row.rename(row.with_name("-x.json")), "has an unsafe name"),
        (
            lambda f, row: shutil.copy(verified(row), row.with_name("x.verification.json")),
            "is not stored with a result",
        ),
        (lambda f, row: verification_record.path_beside(row).write_text("{}"), "is not a valid verification"),
        (lambda f, row: verified(row, passed=False), "failed its verification"),
        (lambda f, row: shutil.copy(row, row.with_name("again.json")), "is a second row for the checkpoint"),
    ],
)
def test_check_reports_problems(folder: Path, change: Callable[[Path, Path], object], message: str) -> None:
    (row,) = (folder / "results").iterdir()
    change(folder, row)
    texts = [text for _, text in problems(folder)]
    assert any(re.search(message, text) for text in texts), texts


def test_check_reports_an_edited_row(folder: Path) -> None:
    (row,) = (folder / "results").iterdir()
    row.write_text(full(220, name="first.pt").to_json())
    assert {text.split(":")[0] for _, text in problems(folder)} == {"does not agree with the results"}


def nested(levels: int) -> object:
    return [nested(levels - 1)] if levels else 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoint": {"trained_with": {"recipe": nested(300)}}}, "is nested more than 64 levels deep"),
        ({"checkpoint": {"name": "a\ud800"}}, "contains half of a surrogate pair, which is not valid text"),
        (
            {"checkpoint": {"trained_with": {"metrics": {"a": float("inf")}}}},
            "contains Infinity, which is not",
        ),
        ({"threat": {"eps": "1e-999999999"}}, "eps 1e-999999999 is not 0"),
        ({"threat": {"eps": "9" * 10**6}}, "eps 9999"),
        ({"created": "x" * 10**6, "command": "y" * 10**6}, ""),
    ],
)
def test_one_unusable_row_is_named_and_the_others_are_checked(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    value = json.loads(full(210, name="second.pt").to_json())
    for name, content in fields.items():
        value[name] = {**value[name], **content} if isinstance(content, dict) else content
    (folder / "results" / "second.json").write_text(json.dumps(value))
    (folder / "results" / "third.json").write_text("{")
    found = problems(folder)
    texts = [text for file, text in found if file == "results/second.json"]
    assert any(message in text for text in texts) or not message
    assert any(file == "results/third.json" and text.startswith("is malformed") for file, text in found)
    assert all(
        len(text) < 3000 and text.isprintable() for text in map(printable, (text for _, text in found))
    )


@pytest.mark.timeout(60)
def test_pipes_and_unreadable_companions_are_problems(folder: Path) -> None:
    (row,) = (folder / "results").iterdir()
    os.mkfifo(folder / "results" / "pipe.json")
    row.with_name(f"{row.stem}.curve.csv").write_bytes(b"epoch\n\xff\n")
    row.with_name(f"{row.stem}.images.json").write_text("[" * 10**4)
    (folder / "README.md").write_bytes(b"\xff" * 10)
    found = dict(problems(folder))
    assert (
        "is a pipe or a device" in found["results/pipe.json"] or "not expected" in found["results/pipe.json"]
    )
    assert "is not UTF-8 text" in found[f"results/{row.stem}.curve.csv"]
    assert "is nested more than 64 levels deep" in found[f"results/{row.stem}.images.json"]


def test_check_reports_every_malformed_file(folder: Path) -> None:
    for name in ("b.json", "c.json"):
        (folder / "results" / name).write_text("{")
    malformed = [file for file, text in problems(folder) if text.startswith("is malformed")]
    assert malformed == ["results/b.json", "results/c.json"]
    with pytest.raises(UserError, match=r"b\.json is not readable as JSON"):
        read_rows(folder)


@pytest.fixture
def base(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "base" / "ours")
    return tmp_path / "base" / "ours"


def test_a_submission_may_add_rows(folder: Path, base: Path, tmp_path: Path) -> None:
    submission.add_row(write_result(tmp_path, full(205, name="second.pt")), folder)
    rebuild(folder)
    assert problems(folder, base) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, row: row.write_text(full(100, name="first.pt").to_json()), "was changed"),
        (lambda f, row: row.rename(row.with_name("new.json")), "was removed"),
        (lambda f, row: verified(row), "is a verification, which only maintainers may add"),
        (
            lambda f, row: row.with_name(row.stem + ".curve.csv").write_text("epoch,val_pgd\n1,0.5\n"),
            "is stored with a row that is not part of the submission",
        ),
        (lambda f, row: (f / "board.toml").write_text(OWN.replace("400", "1")), "changes the board's rules"),
    ],
)
def test_forbidden_changes_of_a_submission(
    folder: Path, base: Path, change: Callable[[Path, Path], object], message: str
) -> None:
    (row,) = (folder / "results").iterdir()
    change(folder, row)
    rebuild(folder)
    assert any(message in text for _, text in problems(folder, base))


def test_a_removed_verification_is_reported(folder: Path, base: Path) -> None:
    (row,) = (base / "results").iterdir()
    verified(row)
    assert ("results/" + verification_record.path_beside(row).name, "was removed") in problems(folder, base)


def test_a_missing_base_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder. Give the board as it was before"):
        problems(folder, tmp_path / "nowhere")


def test_rules_of_a_submission_are_not_used(folder: Path, base: Path, tmp_path: Path) -> None:
    (folder / "board.toml").write_text(OWN.replace("400", "1"))
    submission.add_row(write_result(tmp_path, full(50, n=100, clean=90, name="few.pt")), folder)
    rebuild(folder)
    assert any(
        "has 100 examples; the board requires at least 400" in text for _, text in problems(folder, base)
    )
