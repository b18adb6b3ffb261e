"""States of a run: Waiting; Opened (its folder is locked); Running (its units are run); Closed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import regular_file
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import Bools, UnitResult, WorkUnit
from robust_eval.evaluation import result_writer
from robust_eval.evaluation.attack_copy import TUNING_FILE
from robust_eval.evaluation.checks import second_judgement
from robust_eval.evaluation.checks.second_judgement import JudgedImages
from robust_eval.evaluation.executors import shards
from robust_eval.evaluation.executors.run_spec import RunSpec
from robust_eval.evaluation.planning.cascade import CascadeState, FinishedColumn, StageUnits
from robust_eval.evaluation.planning.units import shard_examples
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.store import MemoryStore, Store, lock_run_folder, open_run
from robust_eval.results import DiagnosisRecord, EvalResult
from robust_eval.results.evidence import BrokenPart


@dataclass(frozen=True)
class Waiting:
    """Only the spec is known."""


@dataclass(frozen=True)
class Opened:
    """The request is known, and the folder is open and locked."""

    spec: RunSpec
    request: Request
    folder: Path | None
    store: Store

    @property
    def tuning(self) -> str | None:
        """Content of the folder's tuning file, if an earlier command measured."""
        file = None if self.folder is None else self.folder / TUNING_FILE
        if file is None or not file.exists():
            return None
        return regular_file.read_text(file, "tuning files", 2**20)


def open_folder(spec: RunSpec, request: Request, locks: ExitStack) -> Opened:
    """Create or open the run folder and lock it until ``locks`` are closed.

    Raises:
        UserError: if the folder is in use, belongs to another request or cannot be written.
    """
    folder = spec.folder(request)
    if folder is None:
        return Opened(spec, request, None, MemoryStore())
    locks.enter_context(lock_run_folder(folder))
    return Opened(spec, request, folder, open_run(folder, request.identity()))


@dataclass
class StageProgress:
    """Counts of one stage, for the display."""

    column: str
    attack: str
    attacked: int
    done: int = 0
    broken: int = 0
    seconds: float = 0.0
    timed: int = 0
    """Examples done since this command started; the speed is estimated from these."""

    def count(self, result: UnitResult, *, stored: bool) -> None:
        """Add a unit, which was stored or has just been run."""
        n = len(result.verdicts.indices)
        self.done += n
        self.broken += int((~result.verdicts.robust).sum())
        if not stored:
            self.seconds += result.seconds
            self.timed += n

    def seconds_left(self) -> float | None:
        """Estimated remaining time; None before a unit has been timed."""
        if self.done == self.attacked:
            return 0.0
        return (self.attacked - self.done) * self.seconds / self.timed if self.timed else None


@dataclass
class Running:
    """The units of the run are executed."""

    opened: Opened
    tuning: str | None
    report: ModelReport
    cascade: CascadeState
    units: dict[str, WorkUnit] = field(default_factory=dict)
    """All units known so far, by key."""
    stages: list[StageProgress] = field(default_factory=list)
    done: int = 0
    repeats: int = 0
    """How often stored units that vanished were repeated."""
    _stages_of: dict[str, list[StageProgress]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of examples of the run: those of its shard, if it has one."""
        return len(shard_examples(self.opened.request, self.opened.spec.shard))

    @property
    def context(self) -> tuple[Request, str | None]:
        """What a host needs besides the source."""
        return self.opened.request, self.tuning

    def start_stage(self, stage: StageUnits) -> None:
        """Add the units of a stage; those with a known result are counted as stored."""
        progress = StageProgress(stage.column.id, stage.attack, stage.n_attacked)
        self.stages.append(progress)
        for unit in stage.units:
            self.units[unit.key] = unit
            self._stages_of.setdefault(unit.key, []).append(progress)
            known = self.cascade.results.get(unit.key)
            if known is not None:
                progress.count(known, stored=True)

    def add(self, key: str, result: UnitResult, *, stored: bool) -> list[StageUnits]:
        """Record a unit's result and return the stages that can now start."""
        if key in self.cascade.results:
            return []
        self.done += 1
        for progress in self._stages_of[key]:
            progress.count(result, stored=stored)
        return self.cascade.add(key, result)

    def vanished(self) -> list[WorkUnit]:
        """Units that were stored and are no longer in the store."""
        return [unit for key, unit in self.units.items() if key not in self.opened.store]

    @property
    def clean_bits(self) -> Bools:
        """Which examples are classified correctly without an attack, (n,) bool."""
        return self.cascade.finished[CLEAN].bits

    def judged_images(self) -> JudgedImages:
        """The stored images, to be judged again."""
        keys = dict.fromkeys(
            key for column in self.cascade.finished.values() for stage in column.units for key in stage
        )
        store = self.opened.store
        results = (result for key in keys if (result := store.get(key)) is not None)
        return second_judgement.collect(results, len(keys), self.opened.request.seed)

    def finish(self, diagnosis: DiagnosisRecord | None) -> EvalResult | None:
        """Write the result with its evidence; a shard writes what ``merge`` needs, and has no result.

        Raises:
            LookupError: if a unit has vanished from the store.
        """
        opened, spec = self.opened, self.opened.spec
        if spec.shard is not None:
            assert opened.folder is not None
            shards.write(opened.folder, opened.request, spec.shard, self.report, spec.command or "")
            return None
        return self._write(diagnosis, opened.store)

    def partial_result(self) -> EvalResult | None:
        """Write the finished columns as a partial result; None if no column is finished, or all are."""
        if self.opened.spec.shard is not None or CLEAN not in self.cascade.finished or self.cascade.done:
            return None
        diagnosis = result_writer.stored_diagnosis(self.opened.folder)
        return self._write(diagnosis)

    def _write(self, diagnosis: DiagnosisRecord | None, store: Store | None = None) -> EvalResult:
        """``store``: of the images for the evidence; None: none is written."""
        opened, columns = self.opened, self.cascade.finished
        evidence = None
        if store is not None:
            evidence = {
                name: broken_parts(column, store) for name, column in columns.items() if column.stages
            }
        command, folder = opened.spec.command, opened.folder
        return result_writer.write(
            opened.request, columns, self.report, diagnosis, command, folder, evidence=evidence
        )


def broken_parts(column: FinishedColumn, store: Store) -> list[BrokenPart]:
    """The broken examples of a column's units, whose images are read when they are needed.

    Raises:
        LookupError: if a unit is not in the store; also while the images are read.
    """

    def images(key: str) -> NDArray[np.float32]:
        result = store.get(key)
        if result is None:
            raise LookupError(f"units of {column.record.title} are missing")
        return result.evidence

    parts = []
    for stage, keys in zip(column.stages, column.units, strict=True):
        if any(key not in store for key in keys):
            raise LookupError(f"units of {column.record.title} are missing")
        for result, key in zip(stage.results, keys, strict=True):
            broken = result.verdicts.indices[~result.verdicts.robust]
            parts.append(BrokenPart(broken, partial(images, key)))
    return parts


@dataclass(frozen=True)
class Closed:
    """The run has ended."""

    last: Waiting | Opened | Running
    """Its state before."""
    result: EvalResult | None
    """None for a shard, and for a run that failed before a column was finished."""
