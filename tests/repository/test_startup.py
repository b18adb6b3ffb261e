"""Start-up time: `--help` imports no heavy libraries and answers within half a second."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.heavy_imports import EXTRAS, run_and_list

from robust_eval.verification.selftest import cases_unmodified

HEAVY = {"torch", "torchvision", "art", "sklearn", "scipy", "pyautoattack", *EXTRAS}
CHECKPOINT = cases_unmodified.CHECKPOINT
COMMANDS = [("robust-eval", "robust_eval.cli.main"), ("defenses", "defenses.cli.main")]


@pytest.mark.parametrize(("command", "module"), COMMANDS)
def test_help_imports_neither_torch_nor_art(command: str, module: str) -> None:
    printed = run_and_list([command, "--help"], module, HEAVY)
    assert "Usage" in printed
    assert "heavy: []" in printed


TYPER = """
import sys, typer
from rich import console, markdown, panel, table
app = typer.Typer()
@app.command()
def command(number: int = 1): ...
sys.argv = ["command", "--help"]
app()
"""


@pytest.mark.parametrize(("command", "_module"), COMMANDS)
def test_help_costs_little_more_than_that_of_an_empty_command(command: str, _module: str) -> None:
    """0.4 to 0.5 s of processor time on the development machine, of which typer and rich take most."""
    script = Path(sys.executable).with_name(command)
    assert script.exists(), "Run make setup, which installs the console scripts."
    _compare_costs([script, "--help"], [sys.executable, "-c", TYPER], 2.5)


def _compare_costs(command: list[str | Path], reference: list[str | Path], factor: float) -> None:
    """Fail if the command takes more than ``factor`` times the processor time of a reference.

    Both are measured in turn, so that the speed and the load of the machine do not matter.
    """
    best, best_reference = float("inf"), float("inf")
    for _ in range(8):
        best = min(best, _processor_seconds(command))
        best_reference = min(best_reference, _processor_seconds(reference))
        if best < factor * best_reference:
            return
    raise AssertionError(f"{command[0]} took {best:.2f} s, the reference {best_reference:.2f} s")


def _processor_seconds(command: list[str | Path]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # One thread: waiting OpenMP threads would be counted as processor time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, capture_output=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


REFUSED = {
    "robust_eval.cli.main": (
        "check {}",
        "run {} --suite full",
        "verify {result} --checkpoint {}",
        "landscape weights {}",
        "landscape connectivity {} {}",
    ),
    "defenses.cli.main": ("pseudo-label {} --data npz:x.npz --out y.npz", "train at --data digits --init {}"),
}
REFUSING = """
import shlex, sys
from importlib import import_module
main = import_module(sys.argv[1]).main
for words in sys.argv[2:]:
    try:
        sys.argv[1:] = shlex.split(words)
        main()
    except SystemExit as stop:
        assert stop.code == 2, words
    assert "torch" not in sys.modules, words
"""


@pytest.mark.parametrize("module", REFUSED)
def test_what_is_no_checkpoint_is_refused_before_torch_is_imported(module: str, tmp_path: Path) -> None:
    """The import takes most of the time of such a command."""
    page, missing = tmp_path / "page.pt", tmp_path / "missing.pt"
    page.write_text("<html>")
    result = next((Path(__file__).parents[2] / "leaderboards").glob("*/results/*-????????.json"))
    lines = [words.format(path, path, result=result) for words in REFUSED[module] for path in (page, missing)]
    command = [sys.executable, "-c", REFUSING, module, *lines]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert [path in line for line in run.stderr.splitlines() for path in (str(page), str(missing))].count(
        True
    ) == len(lines)


def test_a_run_without_attacks_imports_no_library_of_attacks_or_compilers(tmp_path: Path) -> None:
    """The import of ART takes 4 s, and that of torch's compiler 3 s."""
    words = [
        "robust-eval",
        "run",
        str(CHECKPOINT),
        "--data",
        "digits",
        "--suite",
        "clean",
        "--examples",
        "60",
    ]
    words += ["--out", str(tmp_path / "run")]
    heavy = HEAVY - {"torch"} | {"torch._dynamo", "torch._inductor"}
    assert "heavy: []" in run_and_list(words, "robust_eval.cli.main", heavy)
