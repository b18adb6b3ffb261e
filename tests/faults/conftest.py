"""The process that runs the commands of all fault tests: it imports the heavy libraries once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.faulty_commands import FaultyCommands, faulty_commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCommands]:
    with faulty_commands(tmp_path_factory.mktemp("commands")) as started:
        yield started
