"""A name that is too long for the file system is refused in one sentence, wherever it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import Run, command_runner
from support.fake_workers import TRAINED

NAME = "x" * 300


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return command_runner(capsys, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        f"gate {NAME} --min-robust 1",
        f"compare {NAME} {NAME}",
        f"verify {NAME}",
        f"merge {NAME}",
        f"check {NAME} --data digits",
        f"check {TRAINED} --data npz:{NAME}",
        f"check {TRAINED} --data folder:{NAME}",
        f"check {TRAINED} --data {NAME}",
        f"check {TRAINED} --data digits --arch {NAME}.py:build",
        f"run {TRAINED} --suite {NAME}.toml --examples 10 --dry-run",
        f"run {TRAINED} --suite clean --examples 10 --out {NAME}",
        f"leaderboard check {NAME}",
        f"leaderboard build {NAME}",
        f"leaderboard add {NAME} board",
        f"landscape weights {TRAINED} --out {NAME}",
    ],
)
def test_a_name_that_is_too_long(words: str, command: Run) -> None:
    code, _, err = command(*words.split())
    assert code == 2
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1
