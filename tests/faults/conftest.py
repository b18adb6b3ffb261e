"""The process that runs the commands of all fault tests, with the heavy libraries imported, and a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_workers import TRAINED, without_times
from support.faulty_commands import RUN, FaultyCommands, faulty_commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCommands]:
    with faulty_commands(tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.fixture(scope="session")
def reference(commands: FaultyCommands, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The result of RUN in ordinary surroundings."""
    folder = tmp_path_factory.mktemp("reference")
    shutil.copy(TRAINED, folder / "net.safetensors")
    commands.succeed(folder, RUN, fork=False)
    return without_times(folder / "out" / "result.json")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder in which RUN can be run, with two named pipes."""
    shutil.copy(TRAINED, tmp_path / "net.safetensors")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "other-pipe")
    return tmp_path
