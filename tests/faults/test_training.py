"""A training run ends with the same checkpoints, whatever call it is killed at or fails at."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from support.faulty_commands import Fault, FaultyCommands, Surroundings, every, sample, stopped_well
from support.small_jobs import SMALL

from defenses.runs.learning_curve import TIMES
from robust_eval import data
from robust_eval.core.files import is_temporary

SETTINGS = " ".join(f"--set {setting}" for setting in (*SMALL, "inner.steps=2"))
DATA = f"--data npz:images.npz --arch digits-cnn --norm Linf --eps 0.1 --out run {SETTINGS}"
CASES = {
    "train": f"defenses train at --epochs 2 --no-tensorboard {DATA}",
    "ensemble": f"defenses train at-pas --epochs 4 --no-tensorboard {DATA}",
    "tensorboard": f"defenses train at --epochs 1 {DATA}",
}


def state(folder: Path) -> dict[str, object]:
    """The files of a run by name: the bytes of its checkpoints, the curve without times."""
    found: dict[str, object] = {}
    for path in folder.iterdir():
        if path.name == "curve.csv":
            lines = [line.split(",") for line in path.read_text().splitlines()]
            kept = [index for index, name in enumerate(lines[0]) if name not in TIMES]
            found[path.name] = [[line[index] for index in kept] for line in lines]
        elif path.name not in ("tensorboard", "resume.pt", "run.json"):
            found[path.name] = path.read_bytes()
    return found


UPDATE = "defenses.training.epoch:_augmented"
"""A function that every update calls once."""


class Walk:
    """One command, its finished folder, and the number of its calls."""

    def __init__(self, command: str, commands: FaultyCommands, work: Path) -> None:
        self.command, self.commands, self.work = command, commands, work
        images = data.load("digits").take(100)
        np.savez(work / "images.npz", x=images.x_NHWC, y=images.y_N, class_names=np.arange(10).astype(str))
        commands.succeed(work, command, fork=False)
        shutil.rmtree(work / "run")
        self.calls = commands.succeed(work, command).calls
        self.done = state(work / "run")
        assert {"best.pt", "last.pt", "curve.csv"} <= self.done.keys()

    def fail(self, at: int, fault: Fault) -> None:
        """Train with a fault; the run then continues, or begins again, to the same checkpoints."""
        run = self.work / "run"
        shutil.rmtree(run, ignore_errors=True)
        stopped = self.commands.run(self.work, self.command, fault, at)
        stopped_well(stopped, fault)
        for path in run.glob("*.pt"):
            if not is_temporary(path.name):
                torch.load(path, weights_only=True)
        resume = " --resume" if (run / "resume.pt").exists() else ""
        self.commands.succeed(self.work, self.command + resume)
        assert state(run) == self.done


def test_some_faults_lose_nothing(commands: FaultyCommands, tmp_path: Path) -> None:
    walk = Walk(CASES["train"], commands, tmp_path)
    for at, fault in sample(walk.calls, case=0, points=len(Fault)):
        walk.fail(at, fault)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", CASES)
def test_no_fault_loses_anything(name: str, commands: FaultyCommands, tmp_path: Path) -> None:
    walk = Walk(CASES[name], commands, tmp_path)
    for at, fault in every(walk.calls):
        walk.fail(at, fault)


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_with_the_same_checkpoints(
    commands: FaultyCommands, tmp_path: Path
) -> None:
    """Each kill is in a random update after the first ``resume.pt`` was written, and the run is resumed."""
    kills, run, pipe, draw = 20, tmp_path / "run", tmp_path / "pipe", random.Random(0)
    os.mkfifo(pipe)
    # At most one epoch is completed between two kills.
    words = f"defenses train at --epochs {kills + 2} --no-tensorboard {DATA} --set selection.collapse_after=0"
    walk = Walk(words, commands, tmp_path)
    updates = math.ceil(json.loads((run / "run.json").read_text())["images"]["train"] / 32)
    shutil.rmtree(run)
    states = set()
    for number in range(kills):
        at = draw.randint(1, 2 * updates) + (0 if number else updates)
        around = Surroundings(holds={UPDATE: (at, pipe)})
        command = commands.start(tmp_path, words + (" --resume" if number else ""), surroundings=around)
        with command.held(pipe):
            states.add((run / "resume.pt").read_bytes())
            os.kill(command.process, signal.SIGKILL)
        assert command.wait().code == -signal.SIGKILL
    assert len(states) > kills / 4
    commands.succeed(tmp_path, f"{words} --resume")
    assert state(run) == walk.done
