"""Rules for the repository: contents and length of files, names, number of parameters, safe workflows."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("robust_eval", "defenses")

# Path to the reason why the file may be longer than 250 lines.
LONG_FILES: dict[str, str] = {}

MOST_PARAMETERS = 8
EXPLAINED = "# More than eight parameters:"

# Plugin files (attacks, objectives) each define this class; it is part of their contract.
CONTRACT_CLASSES = {"Params"}

# Written in pieces, so that this file does not contain the patterns itself.
FORBIDDEN = [
    re.compile(r"(?<![\w.~$}-])/(?:" + "|".join(("work", "root", "home", "Users", "mnt", "tmp")) + r")/\w"),
    re.compile(r"https?://(?:[\w.-]+\.)?" + "pypi" + r"\."),
    re.compile("--(?:extra-)?" + "index-url"),
    re.compile("files." + "pythonhosted"),
]


def tracked() -> list[Path]:
    """Tracked files, and untracked ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [path for name in run.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_committed_file_names_a_machine_or_an_index() -> None:
    found = []
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in FORBIDDEN:
            found += [f"{name}: {hit[0]}" for hit in pattern.finditer(text)]
    assert not found


def test_the_lock_is_hashed_and_there_is_no_uv_lock() -> None:
    assert "uv.lock" not in {path.name for path in tracked()}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==[^\n]*\\\n    --hash=sha256:", lock, re.MULTILINE)
    assert {"torch", "torchvision", "adversarial-robustness-toolbox", "pyautoattack"} <= set(pins)
    assert len(pins) == len(re.findall(r"^[\w.-]+==", lock, re.MULTILINE))


def test_files_have_at_most_250_lines() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    long = {name: lines for name, lines in lengths.items() if lines > 250 and name not in LONG_FILES}
    assert not long, "Shorten them, or list them in LONG_FILES with a reason."
    assert all(lengths.get(name, 0) > 250 for name in LONG_FILES), (
        "Remove the entries of LONG_FILES that are no longer long."
    )


Definition = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(*folders: str) -> Iterator[tuple[str, list[str], ast.Module]]:
    """(path, lines, syntax tree) of every Python file in ``folders``."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield path.relative_to(ROOT).as_posix(), text.splitlines(), ast.parse(text)


def parameters(function: Definition) -> int:
    """The number of parameters, ``self`` and ``cls`` left out."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args)]
    first = names[:1] if names[:1] in (["self"], ["cls"]) else []
    starred = [one for one in (given.vararg, given.kwarg) if one is not None]
    return len(names) - len(first) + len(given.kwonlyargs) + len(starred)


def is_explained(function: Definition, lines: list[str]) -> bool:
    """Whether the comment directly above the decorators or ``def`` gives the reason."""
    line = min([function.lineno, *(one.lineno for one in function.decorator_list)]) - 2
    while line >= 0 and lines[line].lstrip().startswith("#"):
        if lines[line].lstrip().startswith(EXPLAINED):
            return True
        line -= 1
    return False


def last_name(node: ast.expr) -> str:
    """``overload`` for ``overload``, ``typing.overload`` and ``overload[...]``."""
    if isinstance(node, ast.Subscript | ast.Call):
        return last_name(node.value if isinstance(node, ast.Subscript) else node.func)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def long_signatures(name: str, lines: list[str], tree: ast.Module) -> list[str]:
    return [
        f"{name}:{node.lineno} {node.name} has {parameters(node)}"
        for node in ast.walk(tree)
        if isinstance(node, Definition)
        and parameters(node) > MOST_PARAMETERS
        and not is_explained(node, lines)
        and "overload" not in {last_name(one) for one in node.decorator_list}
    ]


def test_functions_have_at_most_eight_parameters_or_give_a_reason() -> None:
    files = parsed(*PACKAGES, "benchmarks", "scripts")
    wrong = [found for one in files for found in long_signatures(*one)]
    hint = f"Group parameters in a dataclass, or give the reason in a comment: {EXPLAINED} ..."
    assert not wrong, "\n".join([hint, *wrong])


def test_the_count_of_parameters() -> None:
    nine = "a, /, b, c, d, *, e, f, g, h, i"
    cases = {
        f"def f({nine}): ...": 1,
        f"async def f({nine}): ...": 1,
        "def f(a, b, c, d, e, f, g, *h, **i): ...": 1,
        f"class C:\n    def f(self, {nine}): ...": 1,
        "class C:\n    def f(self, a, b, c, d, e, f, g, h): ...": 0,
        f"{EXPLAINED} the contract\n# of attacks.\n@cache\ndef f({nine}): ...": 0,
        f"{EXPLAINED} too far away\n\ndef f({nine}): ...": 1,
        f"@typing.overload\ndef f({nine}): ...": 0,
    }
    for code, expected in cases.items():
        assert len(long_signatures("f.py", code.splitlines(), ast.parse(code))) == expected, code


def repeated_classes(files: Iterable[tuple[str, list[str], ast.Module]]) -> dict[str, list[str]]:
    """Class name to the files and lines that define it, subclasses of a class of the same name left out."""
    definitions: dict[str, list[str]] = {}
    for name, _, tree in files:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name not in {last_name(one) for one in node.bases}:
                definitions.setdefault(node.name, []).append(f"{name}:{node.lineno}")
    return {name: found for name, found in definitions.items() if len(found) > 1}


def test_no_two_classes_have_the_same_name() -> None:
    repeated = repeated_classes(parsed(*PACKAGES))
    wrong = [
        f"{name}: {definitions}" for name, definitions in repeated.items() if name not in CONTRACT_CLASSES
    ]
    assert not wrong, "\n".join(wrong)


def test_a_subclass_may_have_the_name_of_its_base() -> None:
    def found(*codes: str) -> dict[str, list[str]]:
        return repeated_classes(("f.py", [], ast.parse(code)) for code in codes)

    assert not found("class Run: ...", "class Run(state.Run): ...", "class Run(state.Run[int]): ...")
    assert found("class Run: ...", "def f():\n    class Run: ...") == {"Run": ["f.py:1", "f.py:2"]}


def aliases(name: str, tree: ast.Module) -> list[str]:
    """Imports of the project's modules and names under another name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            for one in node.names:
                source = node.module or "" if isinstance(node, ast.ImportFrom) else one.name
                ours = relative or source.split(".")[0] in PACKAGES
                if ours and one.asname not in (None, one.name):
                    found.append(f"{name}:{node.lineno} {one.name} as {one.asname}")
    return found


def test_names_of_the_project_are_imported_as_they_are() -> None:
    wrong = [found for name, _, tree in parsed(*PACKAGES) for found in aliases(name, tree)]
    assert not wrong, "\n".join(wrong)


def test_aliases_are_found() -> None:
    code = (
        "import numpy as np\nimport robust_eval.core.text as t\nfrom . import job as one\n"
        "from robust_eval import data\ndef f():\n    from defenses.runs import files as names\n"
    )
    assert len(aliases("f.py", ast.parse(code))) == 3


def workflows() -> list[Path]:
    return sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def test_a_workflow_runs_make_test() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in workflows())
    assert ".ci/run" in text
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", workflows(), ids=lambda path: path.name)
def test_workflows_are_safe_for_pull_requests(path: Path) -> None:
    lines = [line.partition(" #")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    text = "\n".join(lines)
    assert "pull_request_target" not in text, "It runs untrusted code with this repository's token."
    assert "workflow_run" not in text
    assert "${{ secrets." not in text
    assert re.search(r"^permissions:\n  contents: read\n(?! )", text + "\n", re.MULTILINE)
    assert not re.search(r":\s*write\b", text), "The token must be read-only."
    assert "github.event." not in text, "Text of a pull request must not be part of a script."
    for action in re.findall(r"uses:\s*(\S+)", text):
        assert re.search(r"@[0-9a-f]{40}$", action) or action.startswith("./"), f"{action} is not pinned"
    checkouts = text.count("actions/checkout@")
    assert text.count("persist-credentials: false") == checkouts
