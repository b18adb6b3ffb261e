"""Who may import whom: the layers of the house, kept true by reading every import in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("robust_eval", "defenses")

# A module may import its own row and the rows above. A new module of robust_eval gets its place here.
LAYERS = (
    {"errors"},
    {"core"},
    {"data", "models", "attacks"},
    {
        "suites",
        "plan",
        "judge",
        "store",
        "patience",
        "schema",
        "summary",
        "flags",
        "probes",
        "evidence",
        "environment",
        "progress",
        "waves",
        "row",
        "consistency",
        "continuity",
        "compare",
        "gate",
        "verification",
        "provenance",
    },
    {
        "worker",
        "estimate",
        "searching",
        "disagreement",
        "job",
        "diagnose",
        "fresh",
        "in_memory",
        "evaluation",
        "prepare",
        "runner",
        "executors",
        "pool",
        "pool_display",
        "shards",
        "work",
        "rejudge",
        "identity",
        "audit",
        "verify",
    },
    {"leaderboard", "landscape", "render"},
    {"cli", "demo", "selftest", "commands"},
)
# What training may use of the evaluation: never the attacks, whose bugs would then hide themselves.
# Figures and tables of finished runs also read result files (schema) and share landscape.figure.
DEFENSES_MAY_IMPORT = {"core", "data", "models", "errors", "summary", "schema"}


@cache
def modules() -> dict[str, Path]:
    """Dotted names of both packages' modules."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str) -> set[str]:
    """Every module that ``name`` imports, at any depth of its code; names given as strings count."""
    return set(_imports(ast.parse(modules()[name].read_text(encoding="utf-8")), name))


def _imports(tree: ast.AST, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if modules()[name].name == "__init__.py" else name.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in modules() else base
        elif isinstance(node, ast.Call):
            for value in node.args[:1]:
                text = value.value if isinstance(value, ast.Constant) else None
                if isinstance(text, str) and (text in modules() or re.match(r"art(\.\w+)*$", text)):
                    yield text


def part(name: str) -> str:
    """``robust_eval.core.norms`` -> ``core``; the package itself -> ``''``."""
    return [*name.split("."), ""][1]


def layer(name: str) -> int:
    """The row of a module of robust_eval; a ``cli`` parses commands wherever it lies.

    The package itself is the top: it offers everything.
    """
    if name.endswith(".cli"):
        return len(LAYERS) - 1
    for row, members in enumerate(LAYERS):
        if part(name) in members:
            return row
    assert not part(name), f"give '{part(name)}' a place in LAYERS of {Path(__file__).name}"
    return len(LAYERS)


def project(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in PACKAGES}


def test_the_walk_sees_imports_inside_functions_and_by_name() -> None:
    code = "def f():\n    from robust_eval import errors\n    import_module('art.estimators')\n"
    assert set(_imports(ast.parse(code), "robust_eval.cli.main")) == {
        "robust_eval.core.errors",
        "art.estimators",
    }


def test_no_module_imports_upwards() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        if name.startswith("robust_eval.")
        for target in project(imports(name))
        if target.startswith("robust_eval") and layer(target) > layer(name)
    ]
    assert not wrong


def test_data_models_and_attacks_know_no_attacks_but_their_own() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        for target in project(imports(name))
        if part(name) in {"data", "models"} and target.startswith("robust_eval.attacks")
    ]
    assert not wrong


def test_robust_eval_never_imports_defenses() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        if name.startswith("robust_eval")
        for target in imports(name)
        if target.split(".")[0] == "defenses"
    ]
    assert not wrong


def test_defenses_import_the_permitted_parts_alone() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        if name.startswith("defenses")
        for target in imports(name)
        if target.split(".")[0] == "robust_eval"
        and part(target) not in DEFENSES_MAY_IMPORT
        and target != "robust_eval.core.figure_style"
    ]
    assert not wrong


def test_one_file_imports_art() -> None:
    importers = {name for name in modules() for target in imports(name) if re.match(r"art(\.|$)", target)}
    assert importers <= {"robust_eval.attacks._art"}
