"""Put the pieces together: a loaded model and a slice go in, an :class:`EvalResult` comes out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from robust_eval.core import logits
from robust_eval.core.errors import UserError
from robust_eval.core.request import CLEAN
from robust_eval.evaluation import attack_copy, result_writer, unit_loop
from robust_eval.evaluation.checks import precision, same_model
from robust_eval.evaluation.checks.probes import PROBED, probe_job
from robust_eval.evaluation.display import Display, Silent
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.store import MemoryStore, Store, exclusive, open_run
from robust_eval.models import out_of_memory
from robust_eval.results import (
    EvalResult,
    FlagRecord,
    SearchRecord,
    TuningRecord,
    flags,
)
from robust_eval.results.environment import environment


def execute(
    job: Job,
    folder: Path | None = None,
    display: Display | None = None,
    command: str | None = None,
) -> EvalResult:
    """Run, or continue, a job. With a folder every finished unit is on disk at once.

    Interrupted (Ctrl-C), it writes what is there as a partial result and raises KeyboardInterrupt.
    """
    if folder is None:
        return _execute(job, MemoryStore(), None, display or Silent(), command)
    with exclusive(folder):
        store = open_run(folder, job.request.identity())
        return _execute(job, store, folder, display or Silent(), command)


def _execute(
    job: Job, store: Store, folder: Path | None, display: Display, command: str | None
) -> EvalResult:
    finished: dict[str, unit_loop.Finished] = {}
    session = Session(job, folder, display.say)
    if folder is not None:
        same_model.check(folder, session.answers)
    for note in (*job.notes, *session.search.notes):
        display.say(f"search: {note}")
    try:
        for name, column in unit_loop.run(job.request, session.worker, store, display):
            finished[name] = column
    except (KeyboardInterrupt, UserError):
        if finished and folder is not None:
            result_writer.write(job.request, finished, session.look(), None, command, folder)
        raise
    look = session.look(finished[CLEAN], store)
    return result_writer.write(job.request, finished, look, folder, command, folder)


class Session:
    """A job whose model has been looked at, with its worker: what attacks, and what is said of the model."""

    def __init__(
        self, job: Job, folder: Path | None = None, tell: attack_copy.Log = attack_copy.no_log
    ) -> None:
        """``folder`` keeps how the search copy is called; ``tell`` hears when that is measured."""
        self.job = job
        self.probed = probe_job(job)
        self.search = job.search(folder, tell)
        self.worker = job.worker(self.search)
        self._before = _logits(job.model, job.x_NCHW)

    @property
    def answers(self) -> Tensor | None:
        """The logits on the first images, before any attack; None where they differ from call to call."""
        return None if flags.is_random(self.probed) else self._before

    def look(self, clean: unit_loop.Finished | None = None, store: Store | None = None) -> ModelReport:
        """What the row says of model and machine; after the attacks (``clean`` given) all of it."""
        found = (*flags.from_probe(self.probed), *flags.from_overlap(self.job.overlap))
        here = environment(self.job.x_NCHW.device)
        if clean is None:
            return ModelReport(found, here)
        store = store or MemoryStore()
        differing = precision.measure(self.job.request, self.worker, store, {CLEAN: clean})
        if not flags.is_random(self.probed):
            found += self._changes()
        tunings = {name: TuningRecord(**asdict(way)) for name, way in self.search.tunings.items()}
        notes = tuple(dict.fromkeys((*self.job.notes, *self.worker.notes, *self.search.notes)))
        return ModelReport(found, here, SearchRecord(notes=notes, tunings=tunings, disagreement=differing))

    def _changes(self) -> tuple[FlagRecord, ...]:
        """Is the judged model after the attacks what it was before, and what the attacks searched on?"""
        scale, after = logits.logit_std(self._before), _logits(self.job.model, self.job.x_NCHW)
        search = logits.largest_difference(_logits(self.worker.attack_copy, self.job.x_NCHW), after) / scale
        return flags.from_changes(logits.largest_difference(after, self._before) / scale, search)


def _logits(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    return out_of_memory.logits(model, x_NCHW[:PROBED])
