"""The lock of a folder, and changes of several files together."""

from __future__ import annotations

import errno
import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import filelock
import pytest

from robust_eval.core import folders
from robust_eval.core.errors import UserError
from robust_eval.core.folders import LOCK_FILE, STAGED, change_files, lock_folder, settle


def hold(folder: Path, held: Event, done: Event) -> None:
    with lock_folder(folder):
        held.set()
        done.wait()


def test_one_process_has_the_lock_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, done))
    other.start()
    assert held.wait(60)
    with (
        pytest.raises(UserError, match="Another process is working in .*Wait for it to end"),
        lock_folder(tmp_path, wait=0.1),
    ):
        pass
    other.kill()
    other.join()
    assert (tmp_path / LOCK_FILE).exists(), "a killed process leaves the file of its lock"
    with lock_folder(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def count(folder: Path, times: int) -> None:
    for _ in range(times):
        with lock_folder(folder, wait=60):
            number = int((folder / "count").read_text())
            (folder / "count").write_text(str(number + 1))


def test_processes_that_wait_take_turns(tmp_path: Path) -> None:
    """The file of the lock is removed by each process while others wait for it."""
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=count, args=(tmp_path, 25)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert (tmp_path / "count").read_text() == "100"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network folder may refuse locks; a file with the number of the process takes their place."""

    def acquire(lock: filelock.BaseFileLock, *_args: object, **_options: object) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with lock_folder(tmp_path):
        (file,) = [path for path in tmp_path.iterdir() if path.name != LOCK_FILE]
        with pytest.raises(UserError, match=rf"If it no longer exists, delete {file}"), lock_folder(tmp_path):
            pass
    assert not file.exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old").write_text("old")
    (tmp_path / "kept").write_text("old")
    return tmp_path


CHANGE = {"below/new": b"new", "kept": b"new"}


def contents(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_a_change_writes_and_removes_files(folder: Path) -> None:
    with lock_folder(folder):
        change_files(folder, CHANGE, ["old", "never-there"])
    assert contents(folder) == {"below/new": "new", "kept": "new"}


def interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch, patched: str, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch, lock_folder(folder):
        patch.setattr(folders, patched, fail)
        with pytest.raises(type(error)):
            change_files(folder, CHANGE, ["old"])


def test_an_undecided_change_is_discarded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(folder, monkeypatch, "atomic", KeyboardInterrupt())
    assert contents(folder) == {"old": "old", "kept": "old"}
    (folder / STAGED).mkdir()
    (folder / STAGED / "0").write_text("of a killed process")
    settle(folder)
    assert contents(folder) == {"old": "old", "kept": "old"}
    assert not (folder / STAGED).exists()


def test_a_decided_change_is_completed_by_the_next_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(folder, monkeypatch, "_carry_out", KeyboardInterrupt())
    assert (folder / "old").exists()
    settle(folder)
    assert contents(folder) == {"below/new": "new", "kept": "new"}


def test_a_change_that_cannot_be_completed_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with (
        monkeypatch.context() as patch,
        lock_folder(folder),
    ):
        patch.setattr(folders, "_carry_out", fail)
        with pytest.raises(UserError, match=r"stored but not complete \(Input/output error\).*the next comm"):
            change_files(folder, CHANGE, ["old"])
    settle(folder)
    assert contents(folder) == {"below/new": "new", "kept": "new"}


def leave(_folder: Path) -> None: ...


def link(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "link").symlink_to(folder.parent, target_is_directory=True)


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("../outside", leave),
        ("/outside", leave),
        ("..\\outside", leave),
        ("C:outside", leave),
        ("", leave),
        ("below/link/outside", link),
    ],
)
def test_plans_that_lead_out_of_the_folder_are_refused(
    name: str, before: Callable[[Path], None], tmp_path: Path
) -> None:
    """A folder may come from someone else, with a change in it."""
    folder = tmp_path / "folder"
    (folder / STAGED).mkdir(parents=True)
    before(folder)
    (folder / STAGED / "0").write_text("x")
    for plan in ({"write": [name], "remove": []}, {"write": [], "remove": [name]}, {"write": []}, 3):
        (folder / STAGED / "plan.json").write_text(json.dumps(plan))
        with pytest.raises(UserError, match="is not the plan of a change. Delete .*change"):
            settle(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", [STAGED, "units", "results", "tensorboard"])
@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_a_linked_folder_in_a_folder_is_refused(name: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).symlink_to(tmp_path / target, target_is_directory=True)
    refused = pytest.raises(
        UserError, match=rf"{name} is a symbolic link out of the folder. Delete it, or co"
    )
    with refused, lock_folder(tmp_path / "folder"):
        pass
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["0"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [name]


def test_a_folder_may_be_linked_itself_and_contain_linked_files(tmp_path: Path) -> None:
    """A linked file is replaced; the file that it refers to is not changed."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder", target_is_directory=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder" / "file").symlink_to(tmp_path / "secret")
    with lock_folder(tmp_path / "link"):
        change_files(tmp_path / "link", {"file": b"new"})
    assert contents(tmp_path / "folder") == {"file": "new"}
    assert (tmp_path / "secret").read_text() == "secret"
