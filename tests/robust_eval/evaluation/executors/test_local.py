"""Several runs over one pool in this process: rows, shared units, failures, shards."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fake_workers import Quiet, essence, local, run_specs, work

from robust_eval.core import files
from robust_eval.core.errors import UserError
from robust_eval.evaluation import run as evaluation
from robust_eval.evaluation.executors import ChooseTask, Event, TaskDone, TaskFailed, WorkerState, shards
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.merge import merge_shards
from robust_eval.evaluation.executors.run_spec import make_run_spec
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.executors.worker_host import WorkerHost
from robust_eval.evaluation.planning.cascade import CascadeState
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import default_folder, prepare


class Many(LocalExecutor):
    """Several workers in one process, which answer in an order of their own. ``fails``: keys or methods."""

    def __init__(self, size: int, fails: Sequence[str] = ()) -> None:
        super().__init__(WorkerHost())
        self.size = size  # type: ignore[misc]
        self._hosts = [WorkerHost() for _ in range(size)]
        self._tasks: list[Any] = [None] * size
        self.fails = fails
        self.asked: list[str] = []

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
        self.asked.append(task.key or task.method)
        if any(word in task.label or word == task.method for word in self.fails):
            return [TaskFailed(task, "it was planted", f"w{i}", 3)]
        return [TaskDone(task, getattr(self._hosts[i], task.method)(task.source, *task.arguments), f"w{i}")]

    def workers(self) -> Sequence[WorkerState]:
        return []


@pytest.fixture
def alone(options: EvaluationOptions, tmp_path: Path) -> object:
    """What one process makes of the request, one unit after the other."""
    torch.set_num_threads(1)
    folder = tmp_path / "alone"
    return essence(evaluation.execute(prepare(options), folder, command=options.command()))


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_row(
    options: EvaluationOptions, alone: object, tmp_path: Path, workers: int
) -> None:
    (run,) = work([options], Many(workers), tmp_path)
    assert run.folder is not None
    assert essence(run.folder / "result.json") == alone


def test_several_suites_share_their_units(options: EvaluationOptions, tmp_path: Path) -> None:
    place = Many(2)
    wider = replace(options, suite="fgsm,pgd-10,pgd-20")
    runs = work([options, wider], place, tmp_path)
    assert [run.failures for run in runs] == [[], []]
    units = [key for key in place.asked if len(key) == 32]
    assert len(units) == len(set(units)), "a unit of two runs is done once"
    both = [{path.name for path in (run.folder / "units").iterdir()} for run in runs if run.folder]
    assert both[0] & both[1], "and kept in both folders"
    assert runs[1].result is not None
    assert set(runs[1].result.columns) == {"clean", "fgsm", "pgd-10", "pgd-20"}


def test_the_same_command_again_attacks_nothing(options: EvaluationOptions, tmp_path: Path) -> None:
    first = work([options], Many(1), tmp_path)[0]
    place = Many(1)
    again = work([options], place, tmp_path)[0]
    assert place.asked == ["load", "prepare", "report"]
    assert first.result is not None
    assert again.result is not None
    assert essence(first.result) == essence(again.result)


def test_a_unit_that_fails_for_good_leaves_a_partial_row_and_a_sentence(
    options: EvaluationOptions, tmp_path: Path
) -> None:
    display = Quiet()
    (run,) = work([options], Many(2, fails=["cw-3"]), tmp_path, display)
    assert run.result is not None
    assert run.result.status == "partial"
    assert run.result.missing == ("chain",)
    assert set(run.result.columns) == {"clean", "fgsm", "pgd-10"}
    assert "cw-3 on 10 examples (unit " in run.failures[0]
    assert "failed 3 times, the last time on w" in run.failures[0]
    assert display.logged[0] == run.failures[0]
    (run,) = work([options], Many(2), tmp_path)
    assert run.result is not None
    assert run.result.status == "complete"


def test_a_checkpoint_that_cannot_be_loaded_does_not_stop_the_others(
    options: EvaluationOptions, tmp_path: Path
) -> None:
    missing = replace(options, checkpoint=str(tmp_path / "absent.pt"))
    bad, good = work([missing, options], local(), tmp_path)
    assert "absent.pt does not exist" in bad.failures[0]
    assert bad.closed
    assert good.result is not None
    assert good.result.status == "complete"


def test_a_failure_that_nobody_expected_does_not_stop_the_others(
    options: EvaluationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(host: WorkerHost, asked: EvaluationOptions, *arguments: Any) -> Any:
        if asked.seed == 0:
            raise RuntimeError("a library's complaint\nof two lines")
        return unit(host, asked, *arguments)

    unit = WorkerHost.unit
    monkeypatch.setattr(WorkerHost, "unit", breaks)
    bad, good = work([options, replace(options, seed=1)], local(), tmp_path)
    assert "RuntimeError: a library's complaint" in bad.failures[0]
    assert "two lines" not in bad.failures[0]
    assert good.result is not None
    assert good.result.status == "complete"


def test_shards_told_one_folder_get_one_each(options: EvaluationOptions, tmp_path: Path) -> None:
    places = []
    for number in range(2):
        (run,) = run_specs([make_run_spec(replace(options, shards=2), tmp_path / "mine", shard=number)])
        places.append(run.folder)
    assert [place.name for place in places if place] == ["mine.shard-1-of-2", "mine.shard-2-of-2"]
    target, merged = merge_shards([place for place in places if place], None)
    assert (target, merged.status) == (tmp_path / "mine", "complete")


def test_interrupted_it_writes_what_is_there(options: EvaluationOptions, tmp_path: Path) -> None:
    def stop(runs: Sequence[Run]) -> None:
        if runs[0].running is not None and len(runs[0].running.cascade.finished) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work([options], Many(1), tmp_path, Quiet(stop))
    (folder,) = [path for path in tmp_path.iterdir() if path.name != "given"]
    partial = essence(folder / "result.json")
    assert partial["status"] == "partial"  # type: ignore[index]


def test_units_that_vanish_are_made_again(options: EvaluationOptions, alone: object, tmp_path: Path) -> None:
    removed: list[Path] = []

    def steal(runs: Sequence[Run]) -> None:
        folder = runs[0].folder
        if folder is not None and not removed and len(list((folder / "units").iterdir())) == 9:
            removed.append(next((folder / "units").iterdir()))
            removed[0].unlink()

    display = Quiet(steal)
    (run,) = work([options], Many(2), tmp_path, display)
    assert removed
    assert removed[0].exists()
    assert any("1 finished units have vanished" in text for text in display.logged)
    assert run.result is not None
    assert essence(run.result) == alone


def test_a_folder_that_is_away_for_a_while_is_waited_for(
    options: EvaluationOptions, alone: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared folder's units go away and come back, as with a server that starts anew."""
    monkeypatch.setattr(files.time, "sleep", lambda _: back())
    moved: list[Path] = []

    def back() -> None:
        if moved:
            (moved[0].parent / "away").rename(moved[0])
            moved.append(moved.pop(0))
            monkeypatch.setattr(files.time, "sleep", lambda _: None)

    def take(runs: Sequence[Run]) -> None:
        run = runs[0]
        if run.folder is not None and not moved and run.running is not None and run.running.done == 5:
            units = run.folder / "units"
            units.rename(run.folder / "away")
            moved.append(units)

    display = Quiet(take)
    (run,) = work([options], Many(2), tmp_path, display)
    assert any("cannot be reached; retrying" in text for text in display.logged)
    assert run.result is not None
    assert essence(run.result) == alone


def test_a_folder_that_stays_away_ends_the_run_with_a_sentence(
    options: EvaluationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RETRY_SECONDS", 0.6)

    def take(runs: Sequence[Run]) -> None:
        run = runs[0]
        if run.folder is None or run.running is None or run.running.done != 5:
            return
        if (run.folder / "units").exists():
            (run.folder / "units").rename(run.folder / "away")

    with pytest.raises(UserError, match="Cannot write to"):
        work([options], Many(2), tmp_path, Quiet(take))


def test_a_checkpoint_under_two_names_is_named_once(
    options: EvaluationOptions, alone: object, tmp_path: Path
) -> None:
    """It is this command that holds the folder, not another process."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    copied = folder / Path(options.checkpoint).name
    shutil.copy(options.checkpoint, copied)
    runs = work([options, replace(options, checkpoint=str(copied))], Many(2), tmp_path)
    first, second = sorted(runs, key=lambda run: len(run.failures))
    assert first.result is not None
    assert essence(first.result) == alone
    names = f"{second.spec.path} and {first.spec.path}"
    assert second.failures == [f"{names} ask for the same run ({first.folder}). Name it once."]


def test_the_longest_chain_goes_first(options: EvaluationOptions) -> None:
    job = prepare(options)
    state, worker = CascadeState(job.request), job.worker()
    opened = [
        following
        for stage in state.start()
        for unit in stage.units
        for following in state.add(unit.key, worker.run(unit))
    ]
    urgency = {stage.column.id: stage.remaining_cost(job.request) for stage in opened}
    assert urgency["chain"] > urgency["pgd-10"] > urgency["fgsm"]


def shard_runs(options: EvaluationOptions, out: Path, of: int) -> list[Path]:
    places = []
    for number in range(of):
        (run,) = work([replace(options, shards=of)], None, out, shard=number)
        assert run.folder is not None
        assert not run.failures
        places.append(run.folder)
    return places


def test_merged_shards_are_the_run_of_the_same_blocks(options: EvaluationOptions, tmp_path: Path) -> None:
    places = shard_runs(options, tmp_path, 3)
    assert [place.name[-13:] for place in places] == [f".shard-{i}-of-3" for i in (1, 2, 3)]
    target, merged = merge_shards([places[2], places[0], places[1]], None)
    whole = evaluation.execute(
        prepare(replace(options, shards=3)), tmp_path / "whole", command=replace(options, shards=3).command()
    )
    assert target.name == default_folder(prepare(replace(options, shards=3)).request).name
    assert essence(merged) == essence(whole)
    assert "--shards 3" in (merged.command or "")
    assert merged.request == whole.request

    with pytest.raises(UserError, match="Of 3 shards these are missing: 2. Run them"):
        merge_shards([places[0], places[2]], None)
    with pytest.raises(UserError, match="Shard 1/3 was given twice"):
        merge_shards([places[0], places[0], places[1], places[2]], tmp_path / "m")
    with pytest.raises(UserError, match="is not a folder"):
        merge_shards([tmp_path / "nowhere"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"does not contain a finished shard \(shard.json is missing\)"):
        merge_shards([tmp_path / "empty"], None)
    places[1].rename(tmp_path / "renamed")
    with pytest.raises(UserError, match="Add --out FOLDER"):
        merge_shards([places[0], tmp_path / "renamed", places[2]], None)
    other = shard_runs(replace(options, seed=1), tmp_path / "other", 3)
    with pytest.raises(UserError, match=r"shards of different requests \(they differ in: seed\)"):
        merge_shards([places[0], other[1], places[2]], None)
    next((places[0] / "units").iterdir()).unlink()
    with pytest.raises(UserError, match="is missing or damaged: run that shard's command again"):
        merge_shards([places[0], tmp_path / "renamed", places[2]], tmp_path / "m2")
    (places[0] / shards.FILE).write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        merge_shards([places[0]], None)


@pytest.mark.parametrize("text", ["3", "a/b", "3-16", ""])
def test_a_shard_is_i_of_n(text: str) -> None:
    with pytest.raises(UserError, match="is not I/N: write for example --shard 3/16"):
        shards.parse(text)


@pytest.mark.parametrize(("text", "most"), [("0/4", 4), ("5/4", 4)])
def test_shards_out_of_range(text: str, most: int) -> None:
    with pytest.raises(UserError, match=f"--shard {text} is out of range: shards count from 1 to {most}"):
        shards.parse(text)


def test_more_shards_than_examples(options: EvaluationOptions) -> None:
    with pytest.raises(UserError, match="--shards must lie between 1 and the 60 examples, got 61"):
        prepare(replace(options, shards=61))


def test_a_worker_that_sees_other_files_is_refused(options: EvaluationOptions) -> None:
    host = WorkerHost()
    request = host.load(options)
    other = replace(request, data=replace(request.data, fingerprint="ab" * 32))
    with pytest.raises(UserError, match="this worker loads another data under the same names"):
        host.prepare(options, other, None, diagnose=False)


def test_a_host_holds_shared_images_once_and_few_runs(options: EvaluationOptions) -> None:
    host = WorkerHost(keep=2)
    variants = [replace(options, seed=seed) for seed in range(3)]
    for one in variants:
        host.load(one)
    assert list(host._jobs) == variants[1:]
    first, second = host._jobs.values()
    assert first.x_NCHW is second.x_NCHW
