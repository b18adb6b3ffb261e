"""Ctrl-C while a command imports its libraries: exit code 130 and one sentence, without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from robust_eval.verification.selftest import cases_unmodified

ROOT = Path(__file__).parents[2]
CHECK = ("robust_eval.cli", "check", str(cases_unmodified.CHECKPOINT), "--data", "digits")


def run(words: tuple[str, ...], libraries: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with other libraries."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(libraries), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("typer", ("robust_eval.cli", "list")),
        ("rich", ("robust_eval.cli", "list")),
        ("typer", ("defenses.cli", "list")),
        ("torch", CHECK),
    ],
)
def test_an_interrupted_import_ends_the_command(library: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """The library is replaced by one whose import is interrupted."""
    (tmp_path / f"{library}.py").write_text("raise KeyboardInterrupt\n")
    done = run(words, tmp_path)
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("Interrupted.")
    assert len(done.stderr.splitlines()) == 1


def test_an_import_that_is_interrupted_in_generated_code(tmp_path: Path) -> None:
    """Python would otherwise end by SIGINT, and not with the exit code."""
    (tmp_path / "typer.py").write_text("exec('raise KeyboardInterrupt')\n")
    assert run(("defenses.cli", "list"), tmp_path).returncode == 130


def test_the_installed_commands_start_in_the_same_way() -> None:
    """They import nothing before their entry point, which handles Ctrl-C."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts.values()) == {"robust_eval.cli.__main__:main", "defenses.cli.__main__:main"}
    for script in scripts.values():
        source = Path(import_module(script.partition(":")[0]).__file__ or "").read_text()
        imported = [line for line in source.splitlines() if line.startswith(("import", "from"))]
        assert imported == ["from robust_eval.core.entry_point import run_main"]
