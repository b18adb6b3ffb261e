"""Asking for help costs nothing: no heavy imports, an answer in half a second."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "art", "sklearn", "scipy", "matplotlib", "robustbench", "pyautoattack"}
COMMANDS = [("robust-eval", "robust_eval.cli"), ("defenses", "defenses.cli")]


@pytest.mark.parametrize(("command", "module"), COMMANDS)
def test_help_imports_neither_torch_nor_art(command: str, module: str) -> None:
    code = (
        f"import sys; sys.argv = ['{command}', '--help']\n"
        f"from {module} import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = {HEAVY}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout
    assert "heavy: []" in run.stdout


@pytest.mark.parametrize(("command", "_module"), COMMANDS)
def test_help_answers_in_half_a_second(command: str, _module: str) -> None:
    script = Path(sys.executable).with_name(command)
    assert script.exists(), "make setup installs the console scripts"
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([script, "--help"], capture_output=True, check=True)
        best = min(best, time.perf_counter() - started)
        if best < 0.5:
            break
    assert best < 0.5, f"{command} --help took {best:.2f} s"
