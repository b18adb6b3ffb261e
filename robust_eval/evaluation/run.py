"""Put the pieces together: a loaded model and a slice go in, an :class:`EvalResult` comes out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from robust_eval.cli.progress import Silent
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.core.types import Cost
from robust_eval.evaluation import attack_copy as searching
from robust_eval.evaluation import result_writer as row
from robust_eval.evaluation import unit_loop as runner
from robust_eval.evaluation.checks import diagnosis as closer
from robust_eval.evaluation.checks import precision as disagreement
from robust_eval.evaluation.checks import probes
from robust_eval.evaluation.checks import same_model as continuity
from robust_eval.evaluation.job import PROBED, Job, estimate, make_request
from robust_eval.evaluation.planning.cost import measure
from robust_eval.evaluation.planning.units import CLEAN
from robust_eval.evaluation.result_writer import Look
from robust_eval.evaluation.store import MemoryStore, Store, exclusive, open_run
from robust_eval.models import out_of_memory as memory
from robust_eval.results import (
    RESULT_FILE,
    DiagnosisRecord,
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
    display: runner.Display | None = None,
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
    job: Job, store: Store, folder: Path | None, display: runner.Display, command: str | None
) -> EvalResult:
    finished: dict[str, runner.Finished] = {}
    session = Session(job, folder, display.say)
    if folder is not None:
        continuity.check(folder, session.answers)
    for note in (*job.notes, *session.search.notes):
        display.say(f"search: {note}")
    try:
        for name, column in runner.run(job.request, session.worker, store, display):
            finished[name] = column
    except (KeyboardInterrupt, UserError):
        if finished and folder is not None:
            row.write(job.request, finished, session.look(), None, command, folder)
        raise
    look = session.look(finished[CLEAN], store)
    return row.write(job.request, finished, look, folder, command, folder)


class Session:
    """A job whose model has been looked at, with its worker: what attacks, and what is said of the model."""

    def __init__(self, job: Job, folder: Path | None = None, tell: searching.Tell = searching.nobody) -> None:
        """``folder`` keeps how the search copy is called; ``tell`` hears when that is measured."""
        self.job = job
        self.probed = job.probe()
        self.search = job.search(folder, tell)
        self.worker = job.worker(self.search)
        self._before = _logits(job.model, job.x_NCHW)

    @property
    def answers(self) -> Tensor | None:
        """The logits on the first images, before any attack; None where they differ from call to call."""
        return None if flags.is_random(self.probed) else self._before

    def look(self, clean: runner.Finished | None = None, store: Store | None = None) -> Look:
        """What the row says of model and machine; after the attacks (``clean`` given) all of it."""
        found = (*flags.from_probe(self.probed), *flags.from_overlap(self.job.overlap))
        here = environment(self.job.x_NCHW.device)
        if clean is None:
            return Look(found, here)
        store = store or MemoryStore()
        differing = disagreement.measure(self.job.request, self.worker, store, {CLEAN: clean})
        if not flags.is_random(self.probed):
            found += self._changes()
        tunings = {name: TuningRecord(**asdict(way)) for name, way in self.search.tunings.items()}
        notes = tuple(dict.fromkeys((*self.job.notes, *self.worker.notes, *self.search.notes)))
        return Look(found, here, SearchRecord(notes=notes, tunings=tunings, disagreement=differing))

    def _changes(self) -> tuple[FlagRecord, ...]:
        """Is the judged model after the attacks what it was before, and what the attacks searched on?"""
        scale, after = probes.spread(self._before), _logits(self.job.model, self.job.x_NCHW)
        search = probes.largest_difference(_logits(self.worker.searcher, self.job.x_NCHW), after) / scale
        return flags.from_changes(probes.largest_difference(after, self._before) / scale, search)


def _logits(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    return memory.logits(model, x_NCHW[:PROBED])


def diagnosed(job: Job, result: EvalResult, folder: Path | None = None) -> EvalResult:
    """The result with a diagnosis and its flags; with a folder both are kept there.

    A diagnosis that the folder already holds is taken: it depends on nothing but the request.
    """
    found = row.stored_diagnosis(folder) or diagnosis(job)
    others = (flag for flag in result.flags if flag.id not in flags.DIAGNOSIS)
    result = result.model_copy(
        update={"diagnosis": found, "flags": flags.distinct((*others, *flags.from_diagnosis(found)))}
    )
    if folder is not None:
        write_text(folder / row.DIAGNOSIS_FILE, found.model_dump_json(indent=1) + "\n")
        write_text(folder / RESULT_FILE, result.to_json())
    return result


def diagnosis(job: Job) -> DiagnosisRecord:
    """A closer look at the model and the attacks, under the job's threat model and seed."""
    return closer.diagnose(job.worker(), seed=job.request.seed, fresh=job.fresh)


def diagnosis_cost(job: Job) -> tuple[int, Cost, float]:
    """(examples, passes for each, seconds) at most, without the fresh process."""
    n, cost = min(closer.EXAMPLES, job.request.data.n), closer.cost()
    return n, cost, measure(job.model, job.x_NCHW[: min(n, 64)]).seconds(cost, n)


__all__ = [
    "Job",
    "Session",
    "diagnosed",
    "diagnosis",
    "diagnosis_cost",
    "estimate",
    "execute",
    "make_request",
]
