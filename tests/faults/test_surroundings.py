"""Commands without standard streams, a reader, a home folder or space for temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_workers import without_times
from support.faulty_commands import RUN, Fault, FaultyCommands, Surroundings, session_members, wait_until

from robust_eval.results import read_result

STREAMS = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")


def closed(streams: str, words: str) -> list[str]:
    """The words that run a command in a new process with some standard streams closed."""
    program = [sys.executable, "-m", "robust_eval.cli", *words.split()]
    return ["sh", "-c", f'exec "$@" {streams}', "sh", *program]


@pytest.mark.parametrize("streams", STREAMS)
def test_closed_streams_do_not_change_the_exit_code(streams: str, tmp_path: Path) -> None:
    done = subprocess.run(
        closed(streams, "gate missing.json --min-robust 1"), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    expected = "" if "2>&-" in streams else "Error: missing.json does not exist. Check the path.\n"
    assert done.stderr == expected


@pytest.mark.slow
def test_a_run_without_streams_and_home_ends_and_leaves_no_process(work: Path) -> None:
    """The surroundings of a daemon. No user, including root, can write below /proc.

    Without an attack, so that the process does not import the library of the attacks.
    """
    words = closed("<&- >&- 2>&-", RUN.replace("fgsm", "clean").removeprefix("robust-eval "))
    environment = os.environ | {"HOME": "/proc/nowhere"}
    command = subprocess.Popen(words, cwd=work, env=environment, start_new_session=True)
    assert command.wait() == 0
    wait_until(lambda: not session_members(command.pid))
    result = read_result(work / "out" / "result.json")
    assert (result.status, result.columns["clean"].n) == ("complete", 40)


@pytest.mark.slow
def test_a_run_without_the_variable_of_the_home_folder(work: Path, reference: object) -> None:
    words = [sys.executable, "-m", "robust_eval.cli", *RUN.split()[1:]]
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    subprocess.run(words, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert without_times(work / "out" / "result.json") == reference


def test_a_home_folder_that_cannot_be_created(
    commands: FaultyCommands, work: Path, reference: object
) -> None:
    around = Surroundings(environment={"HOME": "/proc/nowhere"})
    assert commands.start(work, RUN, surroundings=around).wait().code == 0
    assert without_times(work / "out" / "result.json") == reference


def test_a_reader_that_ends_after_one_line(commands: FaultyCommands, work: Path, reference: object) -> None:
    command = commands.start(work, RUN, surroundings=Surroundings(out=work / "pipe"))
    with (work / "pipe").open() as reader:
        assert reader.readline()
    done = command.wait()
    assert (done.code, done.err) == (0, "")
    assert without_times(work / "out" / "result.json") == reference


def test_output_on_a_full_disk(commands: FaultyCommands, work: Path, reference: object) -> None:
    done = commands.start(work, RUN, surroundings=Surroundings(out=Path("/dev/full"))).wait()
    assert done.code == 2
    assert done.err == "Error: The output could not be written (No space left on device).\n"
    assert without_times(work / "out" / "result.json") == reference


def test_a_full_temporary_folder(
    commands: FaultyCommands, work: Path, reference: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("temporary")
    around = Surroundings(environment={"TMPDIR": str(folder)}, faulty=folder)
    done = commands.start(work, RUN, Fault.FULL, 1, surroundings=around).wait()
    assert done.code == 0, done
    assert without_times(work / "out" / "result.json") == reference


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_temporary_folder_that_cannot_be_used(
    name: str, commands: FaultyCommands, work: Path, reference: object
) -> None:
    (work / "file").touch()
    around = Surroundings(environment={"TMPDIR": str(work / name)})
    assert commands.start(work, RUN, surroundings=around).wait().code == 0
    assert without_times(work / "out" / "result.json") == reference
