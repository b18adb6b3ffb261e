"""The run folder: stored units, damaged files, write errors, and its lock."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robust_eval.core.errors import UserError
from robust_eval.core.types import UnitResult, Verdicts
from robust_eval.core.versions import written_by
from robust_eval.evaluation import store


def make_unit_result(n: int = 3) -> UnitResult:
    yes, numbers = np.ones(n, dtype=bool), np.arange(n)
    verdicts = Verdicts(numbers, numbers, numbers, numbers / 7, yes, yes, yes, numbers > 0)
    return UnitResult(verdicts, np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2), 10, 5, 0.25)


def test_a_unit_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = store.open_run(tmp_path, {"a": 1})
    assert folder.get("k") is None
    folder.put("k", make_unit_result())
    back = folder.get("k")
    assert back is not None
    for name in ("indices", "distance", "robust"):
        assert np.array_equal(getattr(back.verdicts, name), getattr(make_unit_result().verdicts, name))
    assert np.array_equal(back.evidence, make_unit_result().evidence)
    assert (back.forwards, back.backwards, back.seconds) == (10, 5, 0.25)
    assert [p.name for p in (tmp_path / "units").iterdir()] == ["k.npz"]


def test_damaged_or_renamed_units_count_as_absent(tmp_path: Path) -> None:
    folder = store.open_run(tmp_path, {"a": 1})
    folder.put("k", make_unit_result())
    intact = folder.path("k").read_bytes()
    for damaged in (
        b"",
        intact[:100],
        intact[: len(intact) // 2],
        intact[:-40],
        intact[:300] + b"\0" * 40 + intact[340:],
    ):
        folder.path("k").write_bytes(damaged)
        assert folder.get("k") is None
    for bit in range(0, 8 * len(intact), 29):
        damaged = bytearray(intact)
        damaged[bit // 8] ^= 1 << bit % 8
        found = store.unpack_unit("k", bytes(damaged))
        assert found is None or np.array_equal(found.verdicts.robust, make_unit_result().verdicts.robust)
    folder.path("other").write_bytes(intact)
    assert folder.get("other") is None


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.open_run(tmp_path, {"a": 1})

    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.put("k", make_unit_result())
    assert list((tmp_path / "units").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left to write .* Everything finished so far is kept: free some space"),
        (errno.EACCES, "Cannot write to .*Choose another folder"),
        (errno.EROFS, "Cannot write to .*Choose another folder"),
    ],
)
def test_write_errors_of_the_system_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    folder = store.open_run(tmp_path, {"a": 1})

    def refused(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(UserError, match=message):
        folder.put("k", make_unit_result())
    assert list((tmp_path / "units").iterdir()) == []


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """Writes to /dev/full fail as on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    target = tmp_path / ".file.json.tmp"
    target.symlink_to("/dev/full")
    with (
        pytest.raises(UserError, match="No space left"),
        store.report_write_errors(tmp_path),
        target.open("wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to .*file"):
        store.open_run(tmp_path / "file", {"a": 1})


def test_a_folder_of_another_request_is_refused(tmp_path: Path) -> None:
    store.open_run(tmp_path, {"threat": "Linf 8/255", "seed": 0})
    store.open_run(tmp_path, {"threat": "Linf 8/255", "seed": 0})
    with pytest.raises(UserError, match=r"another request \(it differs in: seed\)"):
        store.open_run(tmp_path, {"threat": "Linf 8/255", "seed": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be continued: .*request.json is not readable as JSON .* Choose another run folder\."),
        ("[" * 10**5, "cannot be continued: .* is nested more than 64 levels deep"),
        ("[]", "request.json is not a request, so .* cannot be continued. Choose another one."),
        ('{"format": 2, "written_by": "x", "request": []}', "is not a request"),
        (
            '{"format": 3, "written_by": "robust-eval 9", "request": {}}',
            "was begun by robust-eval 9 in a format that this version does not read. Upgrade, or choose",
        ),
        ('{"format": "2", "written_by": "robust-eval 9", "request": {}}', "in a format that this version"),
        (
            '{"format": 2, "written_by": "robust-eval 0.0.1", "request": {"seed": 1}}',
            r"another request \(it differs in: seed\) and was begun by robust-eval 0\.0\.1\. Choose",
        ),
        (
            '{"seed": 1, "old": 2}',
            r"another request \(it differs in: seed, old\)\. Choose",
        ),
    ],
)
def test_a_folder_that_cannot_be_continued_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "request.json").write_text(content)
    with pytest.raises(UserError, match=message):
        store.open_run(tmp_path, {"seed": 0})


def test_the_request_names_format_and_version_and_older_ones_are_continued(tmp_path: Path) -> None:
    store.open_run(tmp_path, {"seed": 0})
    written = json.loads((tmp_path / "request.json").read_text())
    assert written == {"format": 2, "written_by": written_by(), "request": {"seed": 0}}
    for older in ({"seed": 0}, {**written, "format": 1}, {**written, "written_by": "robust-eval 0.0.1"}):
        (tmp_path / "request.json").write_text(json.dumps(older))
        store.open_run(tmp_path, {"seed": 0})


@pytest.mark.parametrize(
    "changes",
    [
        {"format": np.array(3)},
        {"format": np.array([1, 2])},
        {"key": np.array("other")},
        {"evidence": np.zeros((1, 1, 2, 2), np.uint16)},
        {"evidence": np.zeros((1, 4), np.float32)},
        {"evidence": np.zeros((4, 1, 2, 2), np.float32)},
        {"indices": np.arange(3, dtype=np.int32)},
        {"indices": np.arange(6).reshape(3, 2)},
        {"labels": np.arange(4)},
        {"distance": np.zeros(3, np.float32)},
        {"robust": np.ones(3, np.uint8)},
        {"passes": np.array([1, 2, 3])},
        {"passes": np.array([1.0, 2.0])},
        {"seconds": np.zeros(1)},
        {"seconds": np.array(1)},
        {"finite": np.array([object()] * 3)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_units_with_arrays_of_other_types_count_as_absent(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = store.open_run(tmp_path, {"a": 1})
    folder.put("k", make_unit_result())
    with np.load(folder.path("k"), allow_pickle=False) as arrays:
        stored = dict(arrays)
    np.savez(folder.path("k"), **stored | {"format": np.array(1)})
    assert folder.get("k") is not None
    np.savez(folder.path("k"), **stored | changes)
    assert folder.get("k") is None


def _hold(folder: Path, held: object, done: object) -> None:
    with store.lock_run_folder(folder):
        held.set()  # type: ignore[attr-defined]
        done.wait(20)  # type: ignore[attr-defined]


def test_a_folder_locked_by_another_process_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, done))
    other.start()
    assert held.wait(20)
    with pytest.raises(UserError, match="Another process is working in"), store.lock_run_folder(tmp_path):
        pass
    other.kill()
    other.join()
    with store.lock_run_folder(tmp_path):
        """The lock is released when its process ends."""


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for enter in (lambda: store.open_run(tmp_path, {"a": 1}), lambda: store.refuse_unusable_folder(tmp_path)):
        with pytest.raises(UserError, match=r"is not a run folder but contains other files \(thesis.tex"):
            enter()
    with pytest.raises(UserError, match=r"thesis.tex"), store.lock_run_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unusable_run_folder_is_refused_early(tmp_path: Path) -> None:
    store.refuse_unusable_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists(), "the check must leave no folder"
    store.open_run(tmp_path / "run", {"a": 1})
    store.refuse_unusable_folder(tmp_path / "run")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="Cannot write to .*file"):
            store.refuse_unusable_folder(folder)
