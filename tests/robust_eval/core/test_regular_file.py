from __future__ import annotations

import os
from pathlib import Path

import pytest

from robust_eval.core import regular_file
from robust_eval.core.errors import UserError


def read(path: Path, most: int = 100) -> bytes:
    return regular_file.read_bytes(path, "JSON files", most)


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    assert read(tmp_path / "a") == read(tmp_path / "link", most=7) == b"content"
    assert regular_file.sha256(tmp_path / "a", "JSON files", 7).startswith("ed7002b439e9ac845f22357d822bac14")


@pytest.mark.timeout(20)
def test_pipes_devices_and_sockets_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises(UserError, match=r"is a pipe or a device\. Copy its content"):
            read(path)


def test_a_file_that_becomes_a_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    status = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: status)
    with pytest.raises(UserError, match="is a pipe or a device"):
        read(tmp_path / "pipe")


def test_missing_large_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none does not exist\. Check the path\."):
        read(tmp_path / "none")
    with pytest.raises(UserError, match=r"is a folder\. Name a file in it\."):
        read(tmp_path)
    (tmp_path / "file").write_bytes(b"x" * 2048)
    with pytest.raises(UserError, match=r"is larger than 1 KiB, the limit for JSON files"):
        read(tmp_path / "file", most=1024)
    with pytest.raises(UserError, match=r"cannot be read: Not a directory\."):
        read(tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"cannot be read: File name too long\."):
        read(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"cannot be read: Too many levels of symbolic links\."):
        read(tmp_path / "loop")
    with pytest.raises(UserError, match="it contains a zero byte"):
        read(Path("a\0b"))


def test_files_of_the_system_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They look like empty files; reading some of them waits for ever."""
    path = Path("/proc/self/status")
    if not path.is_file() or path.stat().st_size:
        pytest.skip("this system has no files without a size")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UserError, match=r"link is a pipe or a device\. Copy its content"):
        read(tmp_path / "link")

    def wait(*_: object) -> bytes:
        raise BlockingIOError

    (tmp_path / "empty").touch()
    assert read(tmp_path / "empty") == b""
    monkeypatch.setattr(os, "read", wait)
    with pytest.raises(UserError, match="empty is a pipe or a device"):
        read(tmp_path / "empty")


def test_a_file_that_becomes_longer_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    status = path.stat()
    path.write_bytes(b"x" * 20)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: status)
    monkeypatch.setattr(os, "fstat", lambda _: status)
    with pytest.raises(UserError, match="never ends or is still being written"):
        read(path, most=10)


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"bad\ufffd has a name that is not valid UTF-8 text\. Rename it\."):
        read(path)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ab\xff")
    with pytest.raises(UserError, match=r"file is not UTF-8 text \(invalid start byte at byte 2\)\."):
        regular_file.read_text(tmp_path / "file", "JSON files", 100)
