"""What is installed: the metadata of the package, and what works, or is explained, without its extras."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.command_line import refused
from support.heavy_imports import EXTRAS, run_and_list

from defenses.cli.main import main as defenses_main
from robust_eval.cli.main import main
from robust_eval.core.errors import UserError
from robust_eval.models import robustbench_package
from robust_eval.verification.selftest import cases_unmodified

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = str(cases_unmodified.CHECKPOINT)
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL: dict[str, list[str]] = PROJECT["optional-dependencies"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
NEIGHBOURS = {
    "timm": "1.0.31",
    "gdown": "6.5.1",
    "setuptools": "84.2.1",
    "torch": "2.15.0",
    "lightning": "2.6.6",
}
"""Packages of laboratories, in versions that the core must allow."""


def parsed(requirements: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(one.name): one for one in map(Requirement, requirements)}


CORE = parsed(PROJECT["dependencies"])


def all_below(requirements: dict[str, Requirement]) -> list[Requirement]:
    """These requirements, and those of what they install, as the installed packages state them."""
    found, todo, seen = list(requirements.values()), list(requirements), set(requirements)
    while todo:
        try:
            stated = metadata.requires(todo.pop()) or []
        except metadata.PackageNotFoundError:
            continue
        for one in map(Requirement, stated):
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                found.append(one)
                name = canonicalize_name(one.name)
                todo += [] if name in seen else [name]
                seen.add(name)
    return found


def test_the_core_installs_no_package_of_an_extra() -> None:
    extra = {name for key in OPTIONAL if key not in ("all", "dev") for name in parsed(OPTIONAL[key])}
    assert len(extra) == len(EXTRAS)
    assert not extra & {canonicalize_name(one.name) for one in all_below(CORE)}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_core_installs_beside_the_newest(name: str) -> None:
    stated = [one for one in all_below(CORE) if canonicalize_name(one.name) == name]
    assert all(one.specifier.contains(NEIGHBOURS[name]) for one in stated), stated


@pytest.mark.parametrize(("torch", "torchvision"), [("2.6.0", "0.21.0"), ("2.9.1", "0.24.1")])
def test_the_core_allows_older_versions_of_torch(torch: str, torchvision: str) -> None:
    assert CORE["torch"].specifier.contains(torch)
    assert CORE["torchvision"].specifier.contains(torchvision)


def test_the_extra_all_is_their_sum() -> None:
    names = sorted(OPTIONAL.keys() - {"all", "dev"})
    assert names == ["hub", "plots", "ray", "timm", "train", "zoo"]
    (every,) = parsed(OPTIONAL["all"]).values()
    assert sorted(every.extras) == names
    assert "robust-eval[all]" in OPTIONAL["dev"]


def test_the_lock_fits_the_metadata() -> None:
    """Run ``make lock`` after a change of a dependency."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)
    for requirements in (PROJECT["dependencies"], *(OPTIONAL[key] for key in OPTIONAL if key != "all")):
        for name, one in parsed(requirements).items():
            found = [version for pinned, version in pins if canonicalize_name(pinned) == name]
            assert name == "robust-eval" or found, name
            assert all(one.specifier.contains(version) for version in found), one


def test_the_versions_of_python_are_those_of_the_classifiers_and_of_the_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    stated = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert stated == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    versions = workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]
    assert versions == [
        {"python": PYTHONS[0], "target": "test-lowest"},
        {"python": PYTHONS[-1], "target": "test-newest"},
    ]


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["robust-eval", "--help"], "robust_eval.cli.main"),
        pytest.param(["robust-eval", "list"], "robust_eval.cli.main", marks=pytest.mark.slow),
        (["robust-eval", "landscape", "curve", "--help"], "robust_eval.cli.main"),
        (["defenses", "list"], "defenses.cli.main"),
        (["defenses", "train", "--help"], "defenses.cli.main"),
    ],
)
def test_commands_start_without_the_extras(words: list[str], module: str) -> None:
    assert "heavy: []" in run_and_list(words, module, EXTRAS, blocked=EXTRAS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "module"),
    [
        (
            ["robust-eval", "run", CHECKPOINT, "--suite", "fgsm,aa", "--examples", "40"],
            "robust_eval.cli.main",
        ),
        (
            ["defenses", "train", "at", "--data", "digits", "--epochs", "1", "--no-tensorboard"],
            "defenses.cli.main",
        ),
    ],
)
def test_the_core_attacks_and_trains_without_the_extras(
    words: list[str], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    assert "heavy: []" in run_and_list([*words, "--out", "run"], module, EXTRAS, blocked=EXTRAS)


def missing(purpose: str, module: str, extra: str) -> str:
    return re.escape(f'{purpose} needs {module}, which is not installed: pip install "robust-eval[{extra}]".')


FIGURE = missing("A figure", "matplotlib", "plots")
TRAIN = ["defenses", "train", "at", "--data", "digits"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["robust-eval", "run", "robustbench:Standard"], missing("RobustBench", "robustbench", "zoo")),
        (["robust-eval", "check", "robustbench:Standard"], missing("RobustBench", "robustbench", "zoo")),
        (["robust-eval", "run", CHECKPOINT, "--executor", "ray"], missing("--executor ray", "ray", "ray")),
        (["robust-eval", "landscape", "curve", CHECKPOINT], FIGURE),
        (["robust-eval", "landscape", "weights", CHECKPOINT], FIGURE),
        (["robust-eval", "landscape", "linear"], FIGURE),
        (["defenses", "sweep", "at", "--over", "perturbation.gamma=0.1,0.2", "--data", "digits"], FIGURE),
        (TRAIN, missing("Training without --no-tensorboard", "tensorboard", "train")),
        (
            [*TRAIN, "--no-tensorboard", "--devices", "2"],
            missing("Training in several processes", "lightning_fabric", "train"),
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_a_missing_extra_is_one_sentence_that_names_it(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        (main if words[0] == "robust-eval" else defenses_main)()
    refused((int(stopped.value.code or 0), *capsys.readouterr()), f"^Error: {message}$")
    assert not list(tmp_path.iterdir())


def test_a_board_with_entries_of_robustbench_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(UserError, match=missing("A board with RobustBench's entries", "robustbench", "zoo")):
        robustbench_package.readme()
