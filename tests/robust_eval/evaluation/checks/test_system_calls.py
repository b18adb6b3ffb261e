"""What code opens while it runs is recorded, for its own thread and only while the context is open."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

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
