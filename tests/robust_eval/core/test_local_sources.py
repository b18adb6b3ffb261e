"""The identity of a network's code covers the local files that it imports."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from robust_eval.core import local_sources
from robust_eval.models.loading import python_architecture


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(file: Path) -> list[str]:
    base = local_sources.root(file)
    return [path.relative_to(base).as_posix() for path in local_sources.sources(file)]


def test_local_imports_are_followed_and_others_are_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        net="import torch, layers\nfrom parts.head import Head\n\ndef build():\n    import lazy\n",
        layers="from json import loads\nimport net\n",
        parts__head="from . import norm\nclass Head: ...\n",
        parts__norm="",
        lazy="",
        other="",
    )
    assert names(tmp_path / "net.py") == ["layers.py", "lazy.py", "net.py", "parts/head.py", "parts/norm.py"]


def test_a_file_alone_has_its_own_digest(tmp_path: Path) -> None:
    write(tmp_path, net="import torch\n")
    expected = hashlib.sha256(b"import torch\n").hexdigest()
    assert python_architecture.sha256(f"{tmp_path / 'net.py'}:build") == expected


@pytest.mark.parametrize("changed", ["layers", "lazy"])
def test_a_changed_import_changes_the_digest(tmp_path: Path, changed: str) -> None:
    write(tmp_path, net="import layers\n", layers="def f():\n    import lazy\n", lazy="")
    before = local_sources.digest(tmp_path / "net.py")
    write(tmp_path, **{changed: "def f():\n    import lazy  # edited\n"})
    assert local_sources.digest(tmp_path / "net.py") != before


LAYER = "from torch import nn\n\ndef layer():\n    return nn.Linear({}, 2)\n"
NET = "from torch import nn\n{}\n\ndef build():\n    return nn.Sequential(nn.Flatten(), layer())\n"


def test_files_in_packages_import_relatively(tmp_path: Path) -> None:
    write(tmp_path, net__model=NET.format("from .parts import layer"), net__parts=LAYER.format(4))
    (tmp_path / "net" / "__init__.py").touch()
    network = python_architecture.build(f"{tmp_path / 'net' / 'model.py'}:build", {}, {})
    assert network(torch.zeros(1, 1, 2, 2)).shape == (1, 2)
    assert names(tmp_path / "net" / "model.py") == ["net/__init__.py", "net/model.py", "net/parts.py"]


def test_two_folders_may_have_files_of_the_same_name(tmp_path: Path) -> None:
    for size in (4, 9):
        folder = tmp_path / str(size)
        write(folder, net=NET.format("from parts import layer"), parts=LAYER.format(size))
        network = python_architecture.build(f"{folder / 'net.py'}:build", {}, {})
        assert network(torch.zeros(1, size)).shape == (1, 2)
    write(tmp_path / "4", parts=LAYER.format(16))
    network = python_architecture.build(f"{tmp_path / '4' / 'net.py'}:build", {}, {})
    assert network(torch.zeros(1, 16)).shape == (1, 2)
