"""The examples of CONTRIBUTING.md pass the contract tests in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = {
    "attack": ("tests/robust_eval/attacks/test_contract.py", "mi-fgsm"),
    "defense": ("tests/defenses/recipes/test_contract.py", "at-smoothed"),
    "architecture": ("tests/robust_eval/models/architectures/test_architectures.py", "linear"),
    "dataset": ("tests/robust_eval/data/test_image_set.py", "every_dataset_file"),
}


def examples() -> dict[str, str]:
    """Path to content, for each fenced block whose first line is a path."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and its tests, with the examples added."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("robust_eval", "defenses", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
    for path, content in examples().items():
        assert not (folder / path).exists(), f"{path} already exists"
        (folder / path).write_text(content, encoding="utf-8")
    return folder


def run(copy: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_an_example_of_each_kind() -> None:
    folders = {path.rpartition("/")[0] for path in examples()}
    assert folders == {
        "robust_eval/attacks",
        "robust_eval/data",
        "robust_eval/models/architectures",
        "defenses/objectives",
        "configs/columns",
        "configs/recipes",
    }


def test_examples_pass_lint_and_format(copy: Path) -> None:
    paths = [path for path in examples() if path.endswith(".py")]
    run(copy, "-m", "ruff", "check", *paths)
    run(copy, "-m", "ruff", "format", "--check", *paths)


def test_the_examples_are_listed(copy: Path) -> None:
    listing = run(copy, "-m", "robust_eval.cli", "list")
    for name in ("mi-fgsm-10", "stripes", "linear"):
        assert name in listing


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTRACTS)
def test_examples_fulfil_their_contract(copy: Path, kind: str) -> None:
    path, chosen = CONTRACTS[kind]
    assert "passed" in run(copy, "-m", "pytest", path, "-k", chosen, "-p", "no:cacheprovider")


@pytest.mark.slow
def test_the_dataset_loads_and_types_are_correct(copy: Path) -> None:
    code = (
        "from robust_eval.data import load\n"
        "images = load('stripes', split='train')\n"
        "assert images.n == 400 and images.image_size == (16, 16) and set(images.y_N) == {0, 1}"
    )
    run(copy, "-c", code)
    run(copy, "-m", "mypy", *[path for path in examples() if path.endswith(".py")])
