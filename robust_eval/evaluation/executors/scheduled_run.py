"""One of several runs: what is known of it, its folder, and its row."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from robust_eval.core.files import write_text
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import WorkUnit
from robust_eval.evaluation import result_writer
from robust_eval.evaluation.attack_copy import TUNING_FILE
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.executors import shards
from robust_eval.evaluation.planning.cascade import CascadeState, Finished
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import default_folder
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.store import FolderStore, Store, exclusive, open_run
from robust_eval.results import DiagnosisRecord, EvalResult


@dataclass
class Run:
    """One checkpoint under one suite."""

    options: EvaluationOptions
    number: int
    out: Path | None = None
    """This run's folder, or of ``several`` the folder of theirs; None: found from the request."""
    several: bool = False
    only: int | None = None
    """One block of the request alone (``--shard``)."""
    diagnose: bool = False
    folder: Path | None = None
    request: Request | None = None
    result: EvalResult | None = None
    failures: list[str] = field(default_factory=list)

    store: FolderStore | None = None
    waves: CascadeState | None = None
    tuning: str | None = None
    look: ModelReport | None = None
    units: dict[str, WorkUnit] = field(default_factory=dict)
    done: int = 0
    outstanding: int = 0
    rounds: int = 0
    closed: bool = False

    @property
    def name(self) -> str:
        return Path(self.options.checkpoint).name

    @property
    def about(self) -> tuple[Request | None, str | None]:
        """What a worker must know besides the options."""
        return self.request, self.tuning

    def open(self, request: Request, locks: ExitStack) -> None:
        """Take or make the run folder and lock it. Raises UserError where it is another request's."""
        usual = default_folder(request)
        run = usual if self.out is None else self.out / usual.name if self.several else self.out
        self.folder = shards.folder(run, self.only, request.shards)
        locks.enter_context(exclusive(self.folder))
        self.request = request
        self.store = open_run(self.folder, request.identity())
        self.waves = CascadeState(request, self.only)
        file = self.folder / TUNING_FILE
        self.tuning = file.read_text(encoding="utf-8") if file.exists() else None

    def ready(self, tuning: str | None, look: ModelReport, answers: Tensor | None) -> None:
        """A worker has loaded it and says how the search copies are to be called.

        Raises :class:`UserError` where it answers otherwise than the model that began the run.
        """
        assert self.folder is not None
        same_model.check(self.folder, answers)
        self.tuning, self.look = tuning, look
        if tuning is not None:
            write_text(self.folder / TUNING_FILE, tuning)

    def keep_diagnosis(self, found: DiagnosisRecord) -> None:
        assert self.folder is not None
        write_text(self.folder / result_writer.DIAGNOSIS_FILE, found.model_dump_json(indent=1) + "\n")

    def vanished(self) -> list[WorkUnit]:
        """Units that were stored and are not there any more."""
        assert self.store is not None
        return [unit for key, unit in self.units.items() if not self.store.path(key).exists()]

    def finish(self) -> None:
        """Write the row with its evidence, or what a shard leaves for the merging."""
        assert self.request is not None
        assert self.waves is not None
        assert self.store is not None
        assert self.look is not None
        folder, command = self.store.folder, self.options.command()
        self.closed = True
        if self.only is not None:
            shards.write(folder, self.request, self.only, self.look, command)
            return
        whole: dict[str, Finished] = {}
        for name, finished in self.waves.finished.items():
            found = with_evidence(finished, self.store)
            if found is None:
                self.failures.append(f"{self.name}: units of {name} are no longer in {folder}")
                return
            whole[name] = found
        self.result = result_writer.write(self.request, whole, self.look, folder, command, folder)

    def write_partial(self) -> None:
        """What is finished, as a partial row."""
        if self.waves is None or self.look is None or self.only is not None:
            return
        if CLEAN in self.waves.finished and not self.waves.done:
            finished, command = self.waves.finished, self.options.command()
            self.result = result_writer.write(
                self.waves.request, finished, self.look, None, command, self.folder
            )


def with_evidence(finished: Finished, store: Store) -> Finished | None:
    """A column of results without images, with them from the store; None where a unit has vanished."""
    stages = []
    for stage, keys in zip(finished.stages, finished.units, strict=True):
        results = [store.get(key) for key in keys]
        if any(result is None for result in results):
            return None
        stages.append(replace(stage, results=tuple(result for result in results if result is not None)))
    return replace(finished, stages=tuple(stages))
