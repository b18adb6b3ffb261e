"""The examples of docs/plugins.md work as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "robust_eval/verification/selftest/digits-at.safetensors"


def examples(page: str) -> dict[str, str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, and the package that it describes as pip installs it, from CONTRIBUTING.md."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, content in examples("docs/plugins.md").items():
        (folder / name).write_text(content, encoding="utf-8")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = folder / project["name"].replace("-", "_")
    package.mkdir()
    (package / "__init__.py").touch()
    for path, content in examples("CONTRIBUTING.md").items():
        (package / Path(path).name).write_text(content, encoding="utf-8")
    installed = folder / f"{package.name}-{project['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(folder: Path, *words: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_installed_plug_ins_are_found(folder: Path) -> None:
    listing = run(folder, "-m", "robust_eval.cli", "list")
    assert all(name in listing for name in ("mi-fgsm", "stripes", "linear"))
    code = (
        "from robust_eval import attacks, data\n"
        "from robust_eval.models import architectures\n"
        "from defenses import objectives\n"
        "from defenses.recipes import resolve\n"
        "from robust_eval.core import discovery\n"
        "assert attacks.library('mi-fgsm').startswith('my-pack 0.1+sha256.'), attacks.library('mi-fgsm')\n"
        "assert attacks.spec('a', 'mi-fgsm', {}).params['steps'] == 10\n"
        "assert data.load('stripes').n == 100\n"
        "assert architectures.find('linear')[0].IDS == ('linear',)\n"
        "assert 'smoothed' in objectives.objective_ids()\n"
        "assert discovery.config('recipes', 'at-smoothed')['objective']['smoothing'] == 0.1\n"
    )
    run(folder, "-c", code)


@pytest.mark.slow
def test_the_installed_attack_fulfils_the_contract(folder: Path) -> None:
    assert "9 of 9 checks passed" in run(folder, "-m", "robust_eval.cli", "contract", "mi-fgsm")


@pytest.mark.slow
def test_the_installed_recipe_is_read(folder: Path) -> None:
    assert "smoothed" in run(folder, "-m", "defenses.cli", "show", "at-smoothed")


@pytest.mark.slow
def test_the_function_is_an_attack(folder: Path) -> None:
    first, second = map(float, run(folder, "my_script.py").split())
    assert 0 <= second <= first <= 1


@pytest.mark.slow
def test_the_file_is_an_attack(folder: Path) -> None:
    listing = run(folder, "-m", "robust_eval.cli", "contract", "my_attack.py")
    assert re.search(r"^my_attack\.py sha256:[0-9a-f]{64}: 9 of 9 checks passed\.$", listing, re.MULTILINE)
    words = ("run", str(CHECKPOINT), "--suite", "my_suite.toml", "--examples", "40", "--out", "run")
    assert "my-suite" in run(folder, "-m", "robust_eval.cli", *words).lower().replace("_", "-")
