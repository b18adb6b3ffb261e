"""Run folders of every format are continued: everything stored in them is used, nothing is run again.

Each is an evaluation of a bundled checkpoint on eight digits; ``run-folder-1`` was written before the format
had a number.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from robust_eval.core.errors import UserError
from robust_eval.core.request import Request
from robust_eval.evaluation import prepare, run, store
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.worker import Worker
from robust_eval.results import EvalResult, read_result
from robust_eval.results.evidence import read_evidence
from robust_eval.verification.selftest import cases_unmodified

FOLDERS = sorted(Path(__file__).parent.glob("run-folder-*"))


def job(folder: Path) -> Job:
    """The job of the folder, with the library versions recorded in it: newer ones are another request."""
    options = EvaluationOptions(
        checkpoint=str(cases_unmodified.CHECKPOINT),
        data="digits",
        suite="fgsm",
        eps="0.2",
        examples=8,
        batch_size=8,
        device="cpu",
    )
    found = prepare.prepare(options)
    stored = json.loads((folder / "request.json").read_text())
    libraries = tuple(stored.get("request", stored)["libraries"].items())
    return replace(found, request=replace(found.request, libraries=libraries))


def comparable(result: EvalResult) -> object:
    counts = (*result.columns.values(), result.worst_case)
    return [(one.robust_bits, one.forwards, one.backwards) for one in counts]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_each_format_is_continued(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    before, evidence = read_result(copy / "result.json"), read_evidence(copy / "evidence.safetensors")
    for name in ("result.json", "evidence.safetensors"):
        (copy / name).unlink()
    units = {path: path.read_bytes() for path in (copy / "units").iterdir()}
    monkeypatch.setattr(Worker, "run", lambda *_: pytest.fail("a unit was run again"))
    result = run.execute(job(folder), copy)
    assert comparable(result) == comparable(before)
    assert result.request == before.request
    again = read_evidence(copy / "evidence.safetensors")
    for one, other in zip(evidence.broken("fgsm"), again.broken("fgsm"), strict=True):
        assert one.tobytes() == other.tobytes()
    assert {path: path.read_bytes() for path in (copy / "units").iterdir()} == units


def test_there_is_a_folder_of_every_format() -> None:
    assert [folder.name for folder in FOLDERS] == [f"run-folder-{n + 1}" for n in range(store.FORMAT)]


def test_a_folder_of_a_later_format_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(FOLDERS[-1], copy)
    request = json.loads((copy / "request.json").read_text()) | {"format": store.FORMAT + 1}
    (copy / "request.json").write_text(json.dumps(request))
    with pytest.raises(UserError, match=r"begun by robust-eval .* in a format that this version does not re"):
        run.execute(job(FOLDERS[-1]), copy)


def test_a_damaged_unit_of_an_earlier_format_is_run_again(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(FOLDERS[0], copy)
    damaged = max((copy / "units").iterdir(), key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found = job(FOLDERS[0])
    assert comparable(run.execute(found, copy)) == comparable(read_result(FOLDERS[0] / "result.json"))


def test_a_folder_of_another_request_says_what_differs(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(FOLDERS[0], copy)
    found = job(FOLDERS[0])
    request: Request = replace(found.request, seed=1)
    with pytest.raises(UserError, match=r"another request \(it differs in: seed\)"):
        run.execute(replace(found, request=request), copy)
