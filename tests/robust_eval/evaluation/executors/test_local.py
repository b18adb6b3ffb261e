"""The scheduler with executors in this process: results, shared units, failures, shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_workers import RecordingDisplay, local_executor, run_options, run_specs, without_times

from robust_eval.core import files
from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import ChooseTask, Event, TaskDone, TaskFailed, WorkerState, shards
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.merge import merge_shards
from robust_eval.evaluation.executors.run_spec import make_run_spec
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.executors.worker_host import WorkerHost
from robust_eval.evaluation.planning.cascade import CascadeState
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import default_folder, prepare
from robust_eval.evaluation.run import execute


class SeveralWorkers(LocalExecutor):
    """Several workers in one process, of which the last busy one finishes first.

    ``fails``: methods, or parts of labels, of the tasks that fail.
    """

    def __init__(self, size: int, fails: Sequence[str] = ()) -> None:
        super().__init__(WorkerHost())
        self.size = size  # type: ignore[misc]
        self._hosts = [WorkerHost() for _ in range(size)]
        self._tasks: list[Any] = [None] * size
        self.fails = fails
        self.executed: list[str] = []

    def feed(self, choose: ChooseTask) -> None:
        for i, task in enumerate(self._tasks):
            if task is None:
                self._tasks[i] = choose(frozenset(self._hosts[i]._jobs))

    def wait(self, seconds: float) -> Sequence[Event]:
        busy = [i for i, task in enumerate(self._tasks) if task is not None]
        if not busy:
            return []
        i = busy[-1]
        task, self._tasks[i] = self._tasks[i], None
        self.executed.append(task.key or task.method)
        if any(word in task.label or word == task.method for word in self.fails):
            return [TaskFailed(task, "planted failure", f"w{i}", 3)]
        return [TaskDone(task, getattr(self._hosts[i], task.method)(task.source, *task.arguments), f"w{i}")]

    def workers(self) -> Sequence[WorkerState]:
        return []


@pytest.mark.parametrize("workers", [1, 3])
def test_the_result_does_not_depend_on_the_number_of_workers(
    options: EvaluationOptions, sequential: object, tmp_path: Path, workers: int
) -> None:
    (run,) = run_options([options], SeveralWorkers(workers), tmp_path)
    assert run.folder is not None
    assert without_times(run.folder / "result.json") == sequential


def test_runs_share_their_common_units(options: EvaluationOptions, tmp_path: Path) -> None:
    executor = SeveralWorkers(2)
    wider = replace(options, suite="fgsm,pgd-10,pgd-20")
    runs = run_options([options, wider], executor, tmp_path)
    assert [run.failures for run in runs] == [[], []]
    units = [key for key in executor.executed if len(key) == 32]
    assert len(units) == len(set(units)), "a unit of two runs must be executed once"
    both = [{path.name for path in (run.folder / "units").iterdir()} for run in runs if run.folder]
    assert both[0] & both[1], "the unit must be stored in both folders"
    assert runs[1].result is not None
    assert set(runs[1].result.columns) == {"clean", "fgsm", "pgd-10", "pgd-20"}


def test_repeating_a_command_runs_no_attack(options: EvaluationOptions, tmp_path: Path) -> None:
    first = run_options([options], SeveralWorkers(1), tmp_path)[0]
    executor = SeveralWorkers(1)
    again = run_options([options], executor, tmp_path)[0]
    assert executor.executed == ["load", "prepare", "report"]
    assert first.result is not None
    assert again.result is not None
    assert without_times(first.result) == without_times(again.result)


def test_a_unit_that_fails_repeatedly_gives_a_partial_result_and_a_message(
    options: EvaluationOptions, tmp_path: Path
) -> None:
    display = RecordingDisplay()
    (run,) = run_options([options], SeveralWorkers(2, fails=["cw-3"]), tmp_path, display)
    assert run.result is not None
    assert run.result.status == "partial"
    assert run.result.missing == ("cascade",)
    assert set(run.result.columns) == {"clean", "fgsm", "pgd-10"}
    assert "cw-3 on 10 examples (unit " in run.failures[0]
    assert "failed 3 times, the last time on w" in run.failures[0]
    assert display.logged[0] == run.failures[0]
    (run,) = run_options([options], SeveralWorkers(2), tmp_path)
    assert run.result is not None
    assert run.result.status == "complete"


def test_a_checkpoint_that_cannot_be_loaded_does_not_stop_other_runs(
    options: EvaluationOptions, tmp_path: Path
) -> None:
    missing = replace(options, checkpoint=str(tmp_path / "absent.pt"))
    bad, good = run_options([missing, options], local_executor(), tmp_path)
    assert "absent.pt does not exist" in bad.failures[0]
    assert bad.closed
    assert good.result is not None
    assert good.result.status == "complete"


def test_an_unexpected_exception_does_not_stop_other_runs(
    options: EvaluationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(host: WorkerHost, options: EvaluationOptions, *arguments: Any) -> Any:
        if options.seed == 0:
            raise RuntimeError("library message\nsecond line")
        return unit(host, options, *arguments)

    unit = WorkerHost.unit
    monkeypatch.setattr(WorkerHost, "unit", breaks)
    bad, good = run_options([options, replace(options, seed=1)], local_executor(), tmp_path)
    assert "RuntimeError: library message" in bad.failures[0]
    assert "second line" not in bad.failures[0]
    assert good.result is not None
    assert good.result.status == "complete"


def test_shards_with_one_output_folder_get_a_folder_each(options: EvaluationOptions, tmp_path: Path) -> None:
    folders = []
    for number in range(2):
        (run,) = run_specs([make_run_spec(replace(options, shards=2), tmp_path / "mine", shard=number)])
        folders.append(run.folder)
    assert [folder.name for folder in folders if folder] == ["mine.shard-1-of-2", "mine.shard-2-of-2"]
    target, merged = merge_shards([folder for folder in folders if folder], None)
    assert (target, merged.status) == (tmp_path / "mine", "complete")


def test_an_interruption_writes_a_partial_result(options: EvaluationOptions, tmp_path: Path) -> None:
    def stop(runs: Sequence[Run]) -> None:
        if runs[0].running is not None and len(runs[0].running.cascade.finished) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_options([options], SeveralWorkers(1), tmp_path, RecordingDisplay(stop))
    (folder,) = tmp_path.iterdir()
    partial = without_times(folder / "result.json")
    assert partial["status"] == "partial"  # type: ignore[index]


def test_deleted_units_are_computed_again(
    options: EvaluationOptions, sequential: object, tmp_path: Path
) -> None:
    removed: list[Path] = []

    def delete_a_unit(runs: Sequence[Run]) -> None:
        folder = runs[0].folder
        if folder is not None and not removed and len(list((folder / "units").iterdir())) == 9:
            removed.append(next((folder / "units").iterdir()))
            removed[0].unlink()

    display = RecordingDisplay(delete_a_unit)
    (run,) = run_options([options], SeveralWorkers(2), tmp_path, display)
    assert removed
    assert removed[0].exists()
    assert any("1 finished units have vanished" in text for text in display.logged)
    assert run.result is not None
    assert without_times(run.result) == sequential


def test_an_unreachable_run_folder_is_retried(
    options: EvaluationOptions, sequential: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The units folder disappears and reappears, as on a file server that restarts."""
    monkeypatch.setattr(files.time, "sleep", lambda _: restore())
    moved: list[Path] = []

    def restore() -> None:
        if moved:
            (moved[0].parent / "away").rename(moved[0])
            moved.append(moved.pop(0))
            monkeypatch.setattr(files.time, "sleep", lambda _: None)

    def move_units_away(runs: Sequence[Run]) -> None:
        run = runs[0]
        if run.folder is not None and not moved and run.running is not None and run.running.done == 5:
            units = run.folder / "units"
            units.rename(run.folder / "away")
            moved.append(units)

    display = RecordingDisplay(move_units_away)
    (run,) = run_options([options], SeveralWorkers(2), tmp_path, display)
    assert any("cannot be reached; retrying" in text for text in display.logged)
    assert run.result is not None
    assert without_times(run.result) == sequential


def test_a_folder_that_stays_unreachable_ends_the_run_with_an_error(
    options: EvaluationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RETRY_SECONDS", 0.6)

    def move_units_away(runs: Sequence[Run]) -> None:
        run = runs[0]
        if run.folder is None or run.running is None or run.running.done != 5:
            return
        if (run.folder / "units").exists():
            (run.folder / "units").rename(run.folder / "away")

    with pytest.raises(UserError, match="Cannot write to"):
        run_options([options], SeveralWorkers(2), tmp_path, RecordingDisplay(move_units_away))


def test_copies_of_one_checkpoint_are_refused_as_the_same_run(
    options: EvaluationOptions, sequential: object, tmp_path: Path
) -> None:
    """The message must not blame another process for the lock, which this command holds."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    copied = folder / Path(options.checkpoint).name
    shutil.copy(options.checkpoint, copied)
    runs = run_options([options, replace(options, checkpoint=str(copied))], SeveralWorkers(2), tmp_path)
    first, second = sorted(runs, key=lambda run: len(run.failures))
    assert first.result is not None
    assert without_times(first.result) == sequential
    names = f"{second.spec.path} and {first.spec.path}"
    assert second.failures == [f"{names} ask for the same run ({first.folder}). Name it once."]


def test_remaining_cost_is_largest_for_the_longest_cascade(options: EvaluationOptions) -> None:
    job = prepare(options)
    state, worker = CascadeState(job.request), job.worker()
    opened = [
        following
        for stage in state.start()
        for unit in stage.units
        for following in state.add(unit.key, worker.run(unit))
    ]
    remaining = {stage.column.id: stage.remaining_cost(job.request) for stage in opened}
    assert remaining["cascade"] > remaining["pgd-10"] > remaining["fgsm"]


def shard_runs(options: EvaluationOptions, out: Path, of: int) -> list[Path]:
    folders = []
    for number in range(of):
        (run,) = run_options([replace(options, shards=of)], None, out, shard=number)
        assert run.folder is not None
        assert not run.failures
        folders.append(run.folder)
    return folders


def test_merged_shards_equal_one_run_with_the_same_shards(options: EvaluationOptions, tmp_path: Path) -> None:
    folders = shard_runs(options, tmp_path, 3)
    assert [folder.name[-13:] for folder in folders] == [f".shard-{i}-of-3" for i in (1, 2, 3)]
    target, merged = merge_shards([folders[2], folders[0], folders[1]], None)
    single = execute(
        prepare(replace(options, shards=3)), tmp_path / "single", command=replace(options, shards=3).command()
    )
    assert target.name == default_folder(prepare(replace(options, shards=3)).request).name
    assert without_times(merged) == without_times(single)
    assert list(merged.seconds) == ["loading", *single.seconds], "the single job was in memory"
    assert "--shards 3" in (merged.command or "")
    assert merged.request == single.request

    with pytest.raises(UserError, match="Of 3 shards these are missing: 2. Run them"):
        merge_shards([folders[0], folders[2]], None)
    with pytest.raises(UserError, match="Shard 1/3 was given twice"):
        merge_shards([folders[0], folders[0], folders[1], folders[2]], tmp_path / "m")
    with pytest.raises(UserError, match="is not a folder"):
        merge_shards([tmp_path / "nowhere"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"does not contain a finished shard \(shard.json is missing\)"):
        merge_shards([tmp_path / "empty"], None)
    folders[1].rename(tmp_path / "renamed")
    with pytest.raises(UserError, match="Add --out FOLDER"):
        merge_shards([folders[0], tmp_path / "renamed", folders[2]], None)
    other = [replace(options, seed=1, shards=3)]
    (other_run,) = run_options(other, None, tmp_path / "other", shard=1)
    assert other_run.folder is not None
    with pytest.raises(UserError, match=r"shards of different requests \(they differ in: seed\)"):
        merge_shards([folders[0], other_run.folder, folders[2]], None)
    stored = json.loads((folders[0] / shards.FILE).read_text())
    for part, changes in (
        ("threat", {"eps": "1e-999999999"}),
        ("threat", {}),
        ("data", {"n": 10**15}),
        ("data", {"n": "many"}),
    ):
        spoilt = {**stored["request"][part], **changes} if changes else 3
        value = {**stored, "request": {**stored["request"], part: spoilt}}
        (folders[0] / shards.FILE).write_text(json.dumps(value))
        with pytest.raises(UserError, match=r"shard.json is damaged \(.*\): run the shard again"):
            shards.read(folders[0])
    (folders[0] / shards.FILE).write_text(json.dumps(stored))
    next((folders[0] / "units").iterdir()).unlink()
    with pytest.raises(UserError, match="is missing or damaged: run that shard's command again"):
        merge_shards([folders[0], tmp_path / "renamed", folders[2]], tmp_path / "m2")
    (folders[0] / shards.FILE).write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        merge_shards([folders[0]], None)


@pytest.mark.parametrize("text", ["3", "a/b", "3-16", ""])
def test_malformed_shards_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not I/N: write for example --shard 3/16"):
        shards.parse(text)


@pytest.mark.parametrize(("text", "most"), [("0/4", 4), ("5/4", 4)])
def test_shards_out_of_range_are_refused(text: str, most: int) -> None:
    with pytest.raises(UserError, match=f"--shard {text} is out of range: shards count from 1 to {most}"):
        shards.parse(text)


def test_more_shards_than_examples_are_refused(options: EvaluationOptions) -> None:
    with pytest.raises(UserError, match="--shards must lie between 1 and the 30 examples, got 31"):
        prepare(replace(options, shards=31))


def test_a_worker_with_other_files_is_refused(options: EvaluationOptions) -> None:
    host = WorkerHost()
    request = host.load(options)
    other = replace(request, data=replace(request.data, fingerprint="ab" * 32))
    with pytest.raises(UserError, match="this worker loads another data under the same names"):
        host.prepare(options, other, None, diagnose=False)


def test_a_host_keeps_the_latest_runs_and_shares_their_images(options: EvaluationOptions) -> None:
    host = WorkerHost(keep=2)
    variants = [replace(options, seed=seed) for seed in range(3)]
    for one in variants:
        host.load(one)
    assert list(host._jobs) == variants[1:]
    first, second = host._jobs.values()
    assert first.x_NCHW is second.x_NCHW


def test_the_folder_of_a_checkpoint_names_its_run(
    options: EvaluationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "at-awp" / "best.pt"
    path.parent.mkdir()
    shutil.copy(options.checkpoint, path)
    request = prepare(replace(options, checkpoint=str(path))).request
    key = request.key[:8]
    spec = make_run_spec(replace(options, checkpoint=str(path)))
    assert spec.name == "at-awp/best.pt"
    assert spec.folder(request).name == f"at-awp-best-{request.suite.name}-{key}"
    before = tmp_path / "runs" / f"best-{request.suite.name}-{key}"
    before.mkdir(parents=True)
    assert spec.folder(request).name == before.name, "a folder of an earlier version is continued"
