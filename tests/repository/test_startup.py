"""Start-up time: `--help` imports no heavy libraries and answers within half a second."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "art", "sklearn", "scipy", "matplotlib", "robustbench", "pyautoattack"}
COMMANDS = [("robust-eval", "robust_eval.cli.main"), ("defenses", "defenses.cli.main")]


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
    assert script.exists(), "Run make setup, which installs the console scripts."
    # Processor time, because elapsed time depends on the load of the machine.
    best = float("inf")
    for _ in range(8):
        best = min(best, _processor_seconds([script, "--help"]))
        if best < 0.5:
            break
    assert best < 0.5, f"{command} --help took {best:.2f} s"


def _processor_seconds(command: list[str | Path]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # One thread: waiting OpenMP threads would be counted as processor time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, capture_output=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_run_on_digits_without_attacks_takes_at_most_five_seconds(tmp_path: Path) -> None:
    """Everything of a run except the attacks: loading, probes, the clean column, the result."""
    script = Path(sys.executable).with_name("robust-eval")
    checkpoint = (
        Path(__file__).resolve().parents[2]
        / "robust_eval"
        / "verification"
        / "selftest"
        / "digits-at.safetensors"
    )
    best = float("inf")
    for attempt in range(3):
        words = ["run", str(checkpoint), "--data", "digits", "--suite", "clean", "--examples", "60"]
        best = min(best, _processor_seconds([script, *words, "--out", str(tmp_path / str(attempt))]))
        if best < 5:
            break
    assert best < 5, f"{best:.1f} s without any attack"
