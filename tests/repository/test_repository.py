"""What no committed file may hold, how long files get, and how the workflows treat strangers' code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# path: why it may pass 250 lines.
LONG_FILES: dict[str, str] = {}

# Written in pieces, so that this file does not hold what it looks for.
FORBIDDEN = [
    re.compile(r"(?<![\w.~$}-])/(?:" + "|".join(("work", "root", "home", "Users", "mnt", "tmp")) + r")/\w"),
    re.compile(r"https?://(?:[\w.-]+\.)?" + "pypi" + r"\."),
    re.compile("--(?:extra-)?" + "index-url"),
    re.compile("files." + "pythonhosted"),
]


def tracked() -> list[Path]:
    """Files git tracks, or would: untracked ones that are not ignored count too."""
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


def test_the_lock_is_hashed_and_the_other_lock_is_not_kept() -> None:
    assert "uv.lock" not in {path.name for path in tracked()}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==[^\n]*\\\n    --hash=sha256:", lock, re.MULTILINE)
    assert {"torch", "torchvision", "adversarial-robustness-toolbox", "pyautoattack"} <= set(pins)
    assert len(pins) == len(re.findall(r"^[\w.-]+==", lock, re.MULTILINE))


def test_files_can_be_read_in_one_sitting() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for package in ("robust_eval", "defenses")
        for path in (ROOT / package).rglob("*.py")
    }
    long = {name: lines for name, lines in lengths.items() if lines > 250 and name not in LONG_FILES}
    assert not long, "shorten them, or list them in LONG_FILES with a reason"
    assert all(lengths.get(name, 0) > 250 for name in LONG_FILES), "listed, but no longer long"


def workflows() -> list[Path]:
    return sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def test_there_is_a_workflow_and_it_runs_what_the_makefile_runs() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in workflows())
    assert ".ci/run" in text
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", workflows(), ids=lambda path: path.name)
def test_workflows_are_safe_for_pull_requests(path: Path) -> None:
    lines = [line.partition(" #")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    text = "\n".join(lines)
    assert "pull_request_target" not in text, "it runs a stranger's code with this repository's token"
    assert "workflow_run" not in text
    assert "${{ secrets." not in text
    assert re.search(r"^permissions:\n  contents: read\n(?! )", text + "\n", re.MULTILINE)
    assert not re.search(r":\s*write\b", text), "the token is read-only"
    assert "github.event." not in text, "text of a pull request is not put into a script"
    for action in re.findall(r"uses:\s*(\S+)", text):
        assert re.search(r"@[0-9a-f]{40}$", action) or action.startswith("./"), f"{action} is not pinned"
    checkouts = text.count("actions/checkout@")
    assert text.count("persist-credentials: false") == checkouts
