"""Call ``robust-eval`` in the process of a test."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_eval.cli.main import main

Run = Callable[..., tuple[int, str, str]]
"""The words after the command to (exit code, stdout, stderr)."""


def command_runner(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, *prefix: str
) -> Run:
    """Run ``robust-eval PREFIX`` in a folder, with lines of up to 400 characters."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "400")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robust-eval", *prefix, *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def leave_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the files of figures are empty: drawing takes most of a short command's time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


def refused(outcome: tuple[int, str, str], message: str) -> None:
    """Check exit code 2 and a message on one line, without a traceback or terminal control characters."""
    code, _, err = outcome
    assert code == 2, outcome
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert err.startswith("Error: ")
    assert len(err.strip().splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", err)
