"""All calls in the repository that read untrusted files explicitly exclude code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
# (module, function): the required keyword and its value.
RULES = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
}
FORBIDDEN = {("pickle", "load"), ("pickle", "loads"), ("dill", "load"), ("joblib", "load"), ("yaml", "load")}


def sources() -> list[Path]:
    folders = (path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if not {"build", "dist", "site-packages"} & set(path.parts)
    )


def violations(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            taken = {(node.module, alias.name) for alias in node.names}
            if taken & (RULES.keys() | FORBIDDEN):
                yield f"line {node.lineno}: import the module, not its load"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        name = (owner.id if isinstance(owner, ast.Name) else "", node.func.attr)
        if name in FORBIDDEN:
            yield f"line {node.lineno}: {'.'.join(name)}"
        if name in RULES:
            keyword, wanted = RULES[name]
            given = [entry.value for entry in node.keywords if entry.arg == keyword]
            if not (given and isinstance(given[0], ast.Constant) and given[0].value is wanted):
                yield f"line {node.lineno}: {'.'.join(name)} without {keyword}={wanted}"


def test_every_load_in_the_repository_is_explicit() -> None:
    files = sources()
    assert any(path.name == "reading.py" for path in files)
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in files
        for text in violations(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.load(path, **options)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(data)",
        "from torch import load",
        "from pickle import loads",
    ],
)
def test_violations_are_found(code: str) -> None:
    assert list(violations(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "json.load(file)"]
)
def test_explicit_calls_are_accepted(code: str) -> None:
    assert not list(violations(ast.parse(code)))
