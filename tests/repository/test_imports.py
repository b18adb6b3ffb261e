"""The import direction between the folders of both packages, checked by reading every import in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("robust_eval", "defenses")

# The top-level folders, lowest first. A folder may import itself and the folders of the rows above it in this
# list, not the others of its own row. The package itself (the public API) may import all of them.
ORDER: dict[str, tuple[set[str], ...]] = {
    "robust_eval": (
        {"core"},
        {"data", "results"},
        {"models"},
        {"attacks"},
        {"evaluation"},
        {"verification", "leaderboard", "landscape"},
        {"cli"},
    ),
    "defenses": (
        {"objectives"},
        {"recipes", "runs"},
        {"training"},
        {"sweeps"},
        {"reports"},
        {"cli"},
    ),
}
# Training shares no code with the attacks of the evaluation, so that a defect in an attack cannot affect both
# a defense and the measurement of its robustness.
DEFENSES_MAY_IMPORT = {"core", "data", "models", "results"}
# The longest chain of imports between top-level folders, in folders.
MOST_LEVELS = {"robust_eval": 8, "defenses": 6}


@cache
def modules() -> dict[str, Path]:
    """Dotted name to path, for every module of both packages."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> set[str]:
    """Every module that ``name`` imports, also inside functions and by ``import_module("...")``."""
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
                if isinstance(text, str) and (
                    text in modules() or re.match(r"(art|robustbench)(\.\w+)*$", text)
                ):
                    yield text


def folder(name: str) -> str:
    """The top-level folder: ``robust_eval.core.norms`` -> ``core``; the package itself -> ``''``."""
    return [*name.split("."), ""][1]


def edges(package: str) -> dict[tuple[str, str], str]:
    """(folder, imported folder) of one package, with an import that causes it; imports of itself left out."""
    found: dict[tuple[str, str], str] = {}
    for name in modules():
        for target in imports(name) if name.startswith(f"{package}.") else ():
            pair = folder(name), folder(target)
            if target.split(".")[0] == package and pair[0] != pair[1]:
                found[pair] = f"{name} imports {target}"
    return found


def levels(pairs: Iterable[tuple[str, str]]) -> int:
    """The number of folders in the longest chain of imports; raises CycleError if there is a circle."""
    graph: dict[str, set[str]] = {}
    for importer, imported in pairs:
        graph.setdefault(importer, set()).add(imported)
    height: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        height[name] = 1 + max((height[below] for below in graph.get(name, ())), default=0)
    return max(height.values(), default=0)


def test_imports_inside_functions_and_by_name_are_found() -> None:
    code = "def f():\n    from robust_eval.core import errors\n    import_module('art.estimators')\n"
    assert set(_imports(ast.parse(code), "robust_eval.cli.main")) == {
        "robust_eval.core.errors",
        "art.estimators",
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_is_in_the_import_order(package: str) -> None:
    folders = {path.parent.name for path in (ROOT / package).glob("*/*.py")}
    assert folders == set().union(*ORDER[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_imports_upwards(package: str) -> None:
    row = {name: height for height, names in enumerate(ORDER[package]) for name in names}
    wrong = [
        text
        for (importer, imported), text in edges(package).items()
        if not imported or row[imported] >= row[importer]
    ]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_folders_and_few_levels(package: str) -> None:
    try:
        found = levels(edges(package))
    except CycleError as error:
        pytest.fail(f"These folders import each other: {error.args[1]}")
    assert found <= MOST_LEVELS[package]


def test_levels_are_the_folders_of_the_longest_chain() -> None:
    assert levels([("cli", "models"), ("models", "core"), ("cli", "core"), ("data", "core")]) == 3
    with pytest.raises(CycleError):
        levels([("models", "core"), ("core", "models")])


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_lie_in_folders(package: str) -> None:
    loose = {path.name for path in (ROOT / package).iterdir() if path.is_file()}
    assert loose == {"__init__.py", "py.typed"}


def test_every_folder_has_a_docstring() -> None:
    missing = []
    for code in sorted({path.parent for path in modules().values()}):
        init = code / "__init__.py"
        text = init.read_text(encoding="utf-8") if init.is_file() else ""
        if not ast.get_docstring(ast.parse(text)):
            missing.append(init.relative_to(ROOT).as_posix())
    assert not missing, "one or two sentences: what lives in the folder, and which packages it may import"


def test_data_and_models_do_not_import_attacks() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        for target in imports(name)
        if folder(name) in {"data", "models"} and target.startswith("robust_eval.attacks")
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


def test_defenses_import_only_the_permitted_folders() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        if name.startswith("defenses")
        for target in imports(name)
        if target.split(".")[0] == "robust_eval" and folder(target) not in DEFENSES_MAY_IMPORT
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("library", "importer"),
    [("art", "robust_eval.attacks._art"), ("robustbench", "robust_eval.models.robustbench_package")],
)
def test_one_file_imports_the_library(library: str, importer: str) -> None:
    importers = {name for name in modules() for target in imports(name) if target.split(".")[0] == library}
    assert importers == {importer}


ONLY_POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "readline"}
# Functions of os that Windows lacks, and the modules that do without them there.
ONLY_POSIX_CALLS = {
    **dict.fromkeys(("fork", "killpg", "setsid", "getuid", "geteuid", "getpgid", "mkfifo", "nice"), ""),
    **dict.fromkeys(("wait", "waitpid", "uname", "statvfs", "fchmod", "chown", "sched_getaffinity"), ""),
    "getloadavg": "robust_eval.core.terminal",
    "posix_fallocate": "defenses.runs.files",
}


def test_nothing_is_imported_or_called_that_only_posix_has() -> None:
    found = {(target, name) for name in modules() for target in imports(name) if target in ONLY_POSIX}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                call = ONLY_POSIX_CALLS.get(node.attr)
                found |= {(f"os.{node.attr}", name)} if call not in (None, name) else set()
    assert not found
