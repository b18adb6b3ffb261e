"""Contents of the wheel, and its commands in an empty folder outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network access by the tools of the locked environment."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def files(folder: str, pattern: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}


def test_it_contains_all_modules_of_both_packages(members: set[str]) -> None:
    assert files("robust_eval", "*.py") | files("defenses", "*.py") <= members
    assert {"robust_eval/py.typed", "defenses/py.typed"} <= members


def test_it_contains_every_configuration(members: set[str]) -> None:
    expected = {f"robust_eval/{name}" for name in files("configs", "*.toml")}
    assert "robust_eval/configs/suites/full.toml" in expected
    assert expected <= members


def test_it_contains_the_page_templates(members: set[str]) -> None:
    expected = files("robust_eval/leaderboard/page/templates", "*")
    assert {Path(name).suffix for name in expected} == {".j2", ".css", ".js"}
    assert expected <= members


def test_it_contains_nothing_else(members: set[str]) -> None:
    """Only code, typing markers, configurations, page templates, and the weights of the self-test."""
    assert {name.split("/")[0] for name in members} == {"robust_eval", "defenses"}
    weights = {
        name for name in members if Path(name).match("robust_eval/verification/selftest/*.safetensors")
    }
    kinds = {Path(name).suffix for name in members - weights}
    assert kinds <= {".py", ".typed", ".toml", ".j2", ".json", ".css", ".js"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked into a folder that precedes the editable installation on the path."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run_installed(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_wheel_is_imported_instead_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import robust_eval, defenses; from robust_eval.core.discovery import config_dir\n"
        "print(robust_eval.__file__, defenses.__file__, config_dir('suites'), sep='\\n')"
    )
    for line in run_installed(installed, tmp_path, "-c", code).splitlines():
        assert Path(line).is_relative_to(installed)


def test_commands_work_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    listing = run_installed(installed, tmp_path, "-m", "robust_eval.cli", "list")
    for known in ("full", "pgd-20", "digits", "preact-resnet-18"):
        assert known in listing
    assert "Usage" in run_installed(installed, tmp_path, "-m", "defenses.cli", "--help")
    assert not list(tmp_path.iterdir())
