"""The package robustbench: replacements of what it imports, and the messages if it does not work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robust_eval.core.errors import UserError
from robust_eval.models import robustbench_package

USES_BOTH = """
import pkg_resources
from autoattack import AutoAttack
from autoattack.state import EvaluationState
path = lambda: pkg_resources.resource_filename(__name__, "helper_files/ids.txt")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package of the name, in place of the installed one."""
    for name in [name for name in sys.modules if name.split(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "robustbench"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "robustbench"]:
        del sys.modules[name]


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that these packages are not installed."""
    real: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else real(name))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_modules_that_are_not_installed_are_replaced_while_it_is_in_use(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "loaders.py").write_text(USES_BOTH)
    without(monkeypatch, "autoattack", "pkg_resources")
    with robustbench_package.in_use():
        loaders = robustbench_package.module("loaders")
        assert loaders.AutoAttack.__module__.startswith("pyautoattack")
    assert loaders.path() == str(package / "helper_files" / "ids.txt")
    assert not {"autoattack", "autoattack.state", "pkg_resources"} & set(sys.modules)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import not_installed_anywhere",
            "RobustBench needs not_installed_anywhere, which is not installed: "
            'pip install "robust-eval[zoo]".',
        ),
        (
            "import json.registry",
            "robustbench cannot be imported (No module named 'json.registry'). Install its newest version: "
            "pip install git+https://github.com/RobustBench/robustbench.",
        ),
        (
            "raise ImportError('timm has no layers')",
            "robustbench cannot be imported (timm has no layers). Install its newest version: "
            "pip install git+https://github.com/RobustBench/robustbench.",
        ),
    ],
)
def test_an_import_that_fails_is_explained(package: Path, code: str, message: str) -> None:
    (package / "utils.py").write_text(code)
    with robustbench_package.in_use(), pytest.raises(UserError) as caught:
        robustbench_package.module("utils")
    assert str(caught.value) == message


def test_a_package_without_metadata_is_refused_where_its_tables_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    with pytest.raises(UserError, match="has no description: give a model_info folder"):
        robustbench_package.readme()
