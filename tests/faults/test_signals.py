"""Commands that receive a signal stop with one sentence, and lose nothing; no process stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.fake_workers import without_times
from support.faulty_commands import (
    RUN,
    FaultyCommands,
    Outcome,
    Surroundings,
    descendants,
    opened_for_writing,
    process_state,
    session_members,
    wait_until,
)
from support.small_jobs import SMALL

from robust_eval import data

TRAIN = " ".join(
    [
        "defenses train at --data npz:images.npz --arch digits-cnn --norm Linf --eps 0.1 --epochs 2",
        "--no-tensorboard --out run",
        *(f"--set {setting}" for setting in SMALL),
    ]
)
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STORE = "robust_eval.evaluation.store:FolderStore.put"
CLOSE = "robust_eval.evaluation.executors.processes:ProcessExecutor.close"
WRITE = "robust_eval.evaluation.result_writer:write"
FIRST_ATTACK = 6
"""The first unit of the attack is the fifth that is stored, after four of clean images."""
WAITING_NETWORK = """
import multiprocessing
from pathlib import Path
from torch import nn

def build(classes, channels, image_size):
    if multiprocessing.parent_process() is not None:
        Path(__file__).with_name("number").write_text(str(__import__("os").getpid()))
        Path(__file__).with_name("pipe").read_bytes()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
WAITING_RUN = (
    "run net.pt --arch net.py:build --normalisation none --data digits --eps 0.1 --suite clean --examples 12 "
    "--out out"
)


@pytest.fixture
def waiting(work: Path) -> Path:
    """A checkpoint whose network waits when it is loaded in a fresh process."""
    (work / "net.py").write_text(WAITING_NETWORK)
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).state_dict(), work / "net.pt")
    return work


def check_continued(commands: FaultyCommands, work: Path, reference: object) -> None:
    """The same command gives the same result, and computes no stored unit again."""
    stored = {path: path.stat().st_mtime_ns for path in (work / "out").glob("units/*.npz")}
    assert len(stored) == FIRST_ATTACK - 1
    commands.succeed(work, RUN)
    assert without_times(work / "out" / "result.json") == reference
    assert {path: path.stat().st_mtime_ns for path in stored} == stored


def check_stopped(outcome: Outcome, number: int, sentence: str) -> None:
    assert outcome.code == 128 + number, outcome
    assert (outcome.out + outcome.err).count(sentence) == 1, outcome
    assert "Traceback" not in outcome.err
    assert len(outcome.err.strip().splitlines()) <= 1, outcome.err


@pytest.mark.parametrize("number", STOPPING)
def test_a_run_that_is_stopped_continues(
    number: signal.Signals, commands: FaultyCommands, work: Path, reference: object
) -> None:
    around = Surroundings(holds={STORE: (FIRST_ATTACK, work / "pipe")})
    command = commands.start(work, RUN, surroundings=around)
    with command.held(work / "pipe"):
        os.kill(command.process, number)
    check_stopped(command.wait(), number, "Interrupted. Finished work is in out: the same command")
    check_continued(commands, work, reference)


def test_a_second_signal_while_the_partial_result_is_written(
    commands: FaultyCommands, work: Path, reference: object
) -> None:
    holds = {STORE: (FIRST_ATTACK, work / "pipe"), WRITE: (1, work / "other-pipe")}
    command = commands.start(work, RUN, surroundings=Surroundings(holds=holds))
    for pipe in holds.values():
        with command.held(pipe[1]):
            os.kill(command.process, signal.SIGINT)
    check_stopped(command.wait(), signal.SIGINT, "Interrupted. Finished work is in out")
    check_continued(commands, work, reference)


def test_a_run_that_is_suspended_goes_on(commands: FaultyCommands, work: Path, reference: object) -> None:
    around = Surroundings(holds={STORE: (FIRST_ATTACK, work / "pipe")})
    command = commands.start(work, RUN, surroundings=around)
    with command.held(work / "pipe"):
        os.kill(command.process, signal.SIGSTOP)
        wait_until(lambda: process_state(command.process) == "T")
        os.kill(command.process, signal.SIGCONT)
    assert command.wait().code == 0
    assert without_times(work / "out" / "result.json") == reference


def test_training_that_is_stopped_continues(commands: FaultyCommands, work: Path) -> None:
    images = data.load("digits").take(100)
    np.savez(work / "images.npz", x=images.x_NHWC, y=images.y_N, class_names=np.arange(10).astype(str))
    commands.succeed(work, TRAIN, fork=False)
    whole = (work / "run" / "last.pt").read_bytes()
    around = Surroundings(holds={"defenses.training.resume_file:save": (1, work / "pipe")})
    for number in STOPPING:
        shutil.rmtree(work / "run")
        command = commands.start(work, TRAIN, surroundings=around)
        with command.held(work / "pipe"):
            os.kill(command.process, number)
        check_stopped(command.wait(), number, "repeat the command with --resume")
        commands.succeed(work, f"{TRAIN} --resume")
        assert (work / "run" / "last.pt").read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_fresh_process_ends_with_its_command(
    number: signal.Signals, commands: FaultyCommands, reference: object, waiting: Path
) -> None:
    """Also if it would never have given an answer."""
    command = commands.start(waiting, f"robust-eval {WAITING_RUN}")
    with command.held(waiting / "pipe"):
        process = int((waiting / "number").read_text())
        os.kill(command.process, number)
        done = command.wait()
        wait_until(lambda: process_state(process) == "")
    if number == signal.SIGKILL:
        assert done.code == -number
    else:
        check_stopped(done, number, "Interrupted. Finished work is in out")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_no_process_stays(number: signal.Signals, waiting: Path) -> None:
    """Neither the fresh process, nor the fork server, nor the resource tracker of multiprocessing."""
    words = [sys.executable, "-m", "robust_eval.cli", *WAITING_RUN.split()]
    command = subprocess.Popen(words, cwd=waiting, start_new_session=True, stdout=subprocess.DEVNULL)
    with opened_for_writing(waiting / "pipe", lambda: command.poll() is None):
        assert len(session_members(command.pid)) == 4
        command.send_signal(number)
        assert command.wait() == (-number if number == signal.SIGKILL else 128 + number)
        wait_until(lambda: not session_members(command.pid))


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_a_run_with_workers_that_is_stopped(
    numbers: tuple[signal.Signals, ...], commands: FaultyCommands, work: Path, reference: object
) -> None:
    """The second signal arrives while the workers are ended."""
    before = descendants(commands.process)
    holds = {STORE: (FIRST_ATTACK, work / "pipe"), CLOSE: (1, work / "other-pipe")}
    holds = dict(list(holds.items())[: len(numbers)])
    command = commands.start(work, f"{RUN} --workers 2", surroundings=Surroundings(holds=holds))
    for number, (_, pipe) in zip(numbers, holds.values(), strict=True):
        with command.held(pipe):
            started = descendants(commands.process) - before - {command.process}
            assert len(started) == 2
            os.kill(command.process, number)
    check_stopped(command.wait(), numbers[0], "Interrupted. Finished work is")
    wait_until(lambda: not any(process_state(process) for process in started))
    check_continued(commands, work, reference)
