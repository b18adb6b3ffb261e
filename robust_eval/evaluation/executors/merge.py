"""Merge the shards of one request: the same scheduler, with a host that reads the shards' folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robust_eval import attacks
from robust_eval.core.errors import UserError
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import Bools, UnitResult, WorkUnit
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.checks.second_judgement import JudgedImages, joined
from robust_eval.evaluation.executors import PreparedModel, Source, shards
from robust_eval.evaluation.executors.display import SilentDisplay
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.run_spec import RunSpec
from robust_eval.evaluation.executors.scheduler import Scheduler
from robust_eval.evaluation.executors.shards import Shard
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.store import FolderStore
from robust_eval.results import DiagnosisRecord, DisagreementRecord, EvalResult, SearchRecord, flags


def merge_shards(folders: Sequence[Path], out: Path | None) -> tuple[Path, EvalResult]:
    """Merge the shards of one request into a run folder; returns the folder and its result.

    Raises:
        UserError: if shards are missing, given twice or belong to different requests or models.
    """
    found = [(folder, shards.read(folder)) for folder in folders]
    request = _same_request(found)
    for family, library in request.libraries:
        attacks.refuse_other_code(family, library)
    _check_numbers(found, request.shards)
    target = out or _target(folders)
    same_model.check_all(folders)
    host = MergeHost(request, found)
    spec = RunSpec(
        source=EvaluationOptions(checkpoint=request.checkpoint.name),
        name=request.checkpoint.name,
        folder=lambda _request: target,
        command=found[0][1].command,
    )
    (run,) = Scheduler([spec], LocalExecutor(host), SilentDisplay()).work()
    if run.failures or run.result is None:
        raise UserError(run.failures[0]) from run.error
    return target, run.result


class MergeHost:
    """A host that runs no attacks: units and reports come from the shards' folders."""

    def __init__(self, request: Request, found: Sequence[tuple[Path, Shard]]) -> None:
        self._request = request
        self._stores = [FolderStore(folder) for folder, _ in found]
        self._report = _joined([shard.report for _, shard in found])

    def load(self, source: Source) -> Request:
        return self._request

    def prepare(self, source: Source, request: Request, tuning: str | None, diagnose: bool) -> PreparedModel:
        return PreparedModel(tuning, self._report, None)

    def unit(self, source: Source, request: Request, tuning: str | None, unit: WorkUnit) -> UnitResult:
        for store in self._stores:
            result = store.get(unit.key)
            if result is not None:
                return result
        name = CLEAN if unit.attack is None else unit.attack.id
        raise UserError(
            f"A unit of {name} on examples {unit.indices[0]} to {unit.indices[-1]} is missing or damaged: "
            "run that shard's command again, then merge."
        )

    def report(
        self,
        source: Source,
        request: Request,
        tuning: str | None,
        first: ModelReport,
        clean: Bools,
        found: JudgedImages,
    ) -> ModelReport:
        return self._report

    def diagnose(self, source: Source, request: Request, tuning: str | None) -> DiagnosisRecord:
        raise UserError("A merge does not load the model, so it cannot run a diagnosis.")


def _same_request(found: Sequence[tuple[Path, Shard]]) -> Request:
    first_folder, first = found[0]
    wanted = first.request.identity()
    for folder, shard in found[1:]:
        identity = shard.request.identity()
        differing = [name for name in {**wanted, **identity} if wanted.get(name) != identity.get(name)]
        if differing:
            raise UserError(
                f"{folder} and {first_folder} are shards of different requests (they differ in: "
                f"{', '.join(differing)}). Merge the shards of one command."
            )
    return first.request


def _check_numbers(found: Sequence[tuple[Path, Shard]], of: int) -> None:
    by_number: dict[int, Path] = {}
    for folder, shard in found:
        if shard.number in by_number:
            raise UserError(
                f"Shard {shard.number + 1}/{of} was given twice: {by_number[shard.number]} and {folder}. "
                "Give it once."
            )
        by_number[shard.number] = folder
    missing = [str(number + 1) for number in range(of) if number not in by_number]
    if missing:
        named = ", ".join([*missing[:8], *(["..."] if missing[8:] else [])])
        raise UserError(f"Of {of} shards these are missing: {named}. Run them, or give their folders too.")


def _target(folders: Sequence[Path]) -> Path:
    """The run folder that all shards are named after."""
    names = {shards.run_folder(folder) for folder in folders}
    target = names.pop()
    if target is None or names:
        raise UserError("The names of the shards' folders do not determine the run folder. Add --out FOLDER.")
    return target


def _joined(reports: Sequence[ModelReport]) -> ModelReport:
    """Combine the reports of all shards: all flags and devices, and the sums of the counts."""
    devices = " and ".join(dict.fromkeys(report.environment.device for report in reports))
    environment = reports[0].environment.model_copy(update={"device": devices})
    found = flags.distinct([flag for report in reports for flag in report.flags])
    searches = [report.search for report in reports if report.search is not None]
    second = joined([one for report in reports if (one := report.second_judgement) is not None])
    parts = dict.fromkeys(part for report in reports for part in report.seconds)
    seconds = {part: sum(report.seconds.get(part, 0.0) for report in reports) for part in parts}
    if not searches:
        return ModelReport(found, environment, second_judgement=second, seconds=seconds)
    notes = tuple(dict.fromkeys(note for search in searches for note in search.notes))
    measured = [search.disagreement for search in searches if search.disagreement is not None]
    counts = ("images", "verdicts", "weaker", "stronger")
    sums = {name: sum(getattr(one, name) for one in measured) for name in counts}
    record = DisagreementRecord(attacks=measured[0].attacks, **sums) if measured else None
    tunings = {name: tuning for search in reversed(searches) for name, tuning in search.tunings.items()}
    search = SearchRecord(notes=notes, tunings=tunings, disagreement=record)
    return ModelReport(found, environment, search, second, seconds)
