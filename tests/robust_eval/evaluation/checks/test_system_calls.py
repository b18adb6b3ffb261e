"""What code opens while it runs is recorded, for its own thread and only while the context is open."""

from __future__ import annotations

import importlib
import mmap
import os
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from robust_eval.evaluation.checks.system_calls import recorded


def test_kinds(tmp_path: Path) -> None:
    with recorded() as found:
        assert sum(range(5)) == 10
        assert found == set()
        (tmp_path / "file").write_text("x")
        assert found == {"files"}
        os.environ["ROBUST_EVAL_TEST"] = "1"
        assert found == {"files", "environment variables"}
    del os.environ["ROBUST_EVAL_TEST"]
    with recorded() as found:
        mmap.mmap(-1, 8).close()
    assert found == {"files"}, "shared memory"
    with recorded() as found:
        socket.socket().close()
    assert found == {"connections"}
    with recorded() as found:
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert "processes" in found


def test_nothing_is_recorded_outside_or_of_other_threads(tmp_path: Path) -> None:
    with recorded() as found:
        other = threading.Thread(target=(tmp_path / "file").write_text, args=("x",))
        other.start()
        other.join()
    (tmp_path / "file").write_text("y")
    assert found == set()


def test_contexts_can_be_nested(tmp_path: Path) -> None:
    with recorded() as outer:
        with recorded() as inner:
            (tmp_path / "file").write_text("x")
        assert inner == outer == {"files"}


def test_reading_code_is_not_recorded_and_writing_it_is(tmp_path: Path) -> None:
    file = tmp_path / "memory.py"
    file.write_text("x = 1")
    with recorded() as found:
        assert file.read_text() == "x = 1"
        traceback.format_stack()
    assert found == set()
    with recorded() as found:
        file.write_text("x = 2")
    assert found == {"files"}


def test_imports_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the search for a module nor its stored byte code."""
    (tmp_path / "imported_late.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with recorded() as found:
        assert importlib.import_module("imported_late").x == 1
    assert (tmp_path / "__pycache__").is_dir()
    assert found == set()


def test_reading_a_file_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "memory.pt").write_text("x")
    with recorded() as found:
        (tmp_path / "memory.pt").read_text()
    assert found == {"files"}


def test_the_script_of_a_command_may_be_read_for_a_call_stack(tmp_path: Path) -> None:
    """Its name has no suffix."""
    script = tmp_path / "command"
    script.write_text(
        "import traceback\n"
        "from robust_eval.evaluation.checks.system_calls import recorded\n"
        "with recorded() as found:\n    traceback.format_stack()\n"
        "assert found == set(), found\n"
    )
    subprocess.run([sys.executable, str(script)], check=True)
