"""Atomic writes, several files at once, and temporary files that killed processes left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robust_eval.core import files
from robust_eval.core.errors import UserError


def dead_process() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_text(path, "old")
    with pytest.raises(TypeError), files.atomic(path) as file:
        file.writelines([b"half of the new", None])
    assert path.read_text() == "old"
    assert names(tmp_path) == {"x.json"}


def test_no_file_is_replaced_before_all_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.write_text("old")
    left = [1]

    def fsync(_handle: int) -> None:
        if not left.pop():
            raise OSError(errno.ENOSPC, "full")
        left.append(0)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(UserError, match="No space left to write .* free some space and repeat"):
        files.write_files({one: b"new", other: b"new"})
    assert (one.read_text(), other.read_text()) == ("old", "old")
    assert names(tmp_path) == {"one", "other"}


def test_names_are_flushed_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a new file is found only if its folder was flushed, and a new folder likewise."""
    flushed: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", flushed.append)
    files.create_folder(tmp_path / "a" / "b")
    assert set(flushed) == {tmp_path, tmp_path / "a"}
    files.write_text(tmp_path / "a" / "b" / "x", "x")
    assert flushed[-1] == tmp_path / "a" / "b"


def test_a_file_with_the_longest_name_can_be_written(tmp_path: Path) -> None:
    files.write_text(tmp_path / ("x" * 250), "x")
    assert (tmp_path / ("x" * 250)).read_text() == "x"


def test_temporary_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    gone = {f".x.json.{dead_process()}.tmp", f".x.json.{os.getpid()}.tmp", ".x.json.9999999999.tmp"}
    kept = {f".x.json.{os.getppid()}.tmp", ".x.tmp", "x.1.tmp", f".notes.{dead_process()}.txt"}
    for name in gone | kept:
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert names(tmp_path) == kept


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """The name of a temporary file can be guessed."""
    (tmp_path / "secret").write_text("secret")
    for name in ("file", f".file.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to("secret")
    files.write_text(tmp_path / "file", "new")
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path) == {"file", "secret"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_folders_that_cannot_be_flushed_are_accepted(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_handle: int) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(files.os, "fsync", fsync)
    files.sync_folder(tmp_path)
    monkeypatch.setattr(files.errno, "EINVAL", -1)
    monkeypatch.setattr(files.errno, "ENOTSUP", -1)
    with pytest.raises(OSError, match="not here"):
        files.sync_folder(tmp_path)


def test_limits_that_waiting_does_not_lift_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with files.report_write_errors(tmp_path):
            raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(UserError, match="File too large"):
        files.retry_write(fail, tmp_path, print)
