"""A job while it is attacked: its worker, and the reports on the model before and after the attacks."""

from __future__ import annotations

from dataclasses import asdict, replace

from torch import Tensor, nn

from robust_eval.core.logits import largest_difference, logit_std
from robust_eval.core.types import Bools, CallDifference
from robust_eval.evaluation.attack_copy import Log, choose_config, no_log
from robust_eval.evaluation.checks import precision
from robust_eval.evaluation.checks.probes import PROBED, probe_job
from robust_eval.evaluation.checks.second_judgement import JudgedImages, judge_again
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.models import out_of_memory
from robust_eval.results import FlagRecord, SearchRecord, TuningRecord, flags
from robust_eval.results.environment import environment


class Session:
    """A job with the worker that attacks it."""

    def __init__(self, job: Job, tuning: str | None = None, log: Log = no_log) -> None:
        """``tuning``: content of the run folder's tuning file, if there is one."""
        self.job = job
        self.config = choose_config(job.request, job.model, job.x_NCHW, job.compile, tuning, log)
        self.worker = job.worker(self.config)
        self._before = _first_logits(job.model, job.x_NCHW)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the attack copies before the attacks."""
        return (*self.job.notes, *self.config.notes)

    @property
    def first_logits(self) -> Tensor:
        """Logits of the first images before any attack."""
        return self._before

    def report(self, first: ModelReport, clean: Bools, found: JudgedImages) -> ModelReport:
        """The complete report, after the attacks; ``clean`` (n,): examples correct without an attack.

        ``first``: the report before the attacks. ``found``: images that are judged again.
        """
        disagreement = precision.measure_disagreement(self.job.request, self.worker, clean)
        ids = {flag.id for flag in first.flags}
        random = flags.RANDOM_OUTPUTS in ids
        difference = found.difference
        if flags.RANDOM_GRADIENTS in ids:
            difference = replace(difference, cosine=1.0)
        changes = () if random else self._changes(difference)
        second = None if random else judge_again(self.job, found, self._before)
        tunings = {name: TuningRecord(**asdict(one)) for name, one in self.config.tunings.items()}
        notes = tuple(dict.fromkeys((*self.job.notes, *self.worker.notes, *self.config.notes)))
        search = SearchRecord(notes=notes, tunings=tunings, disagreement=disagreement)
        here = environment(self.job.x_NCHW.device)
        return ModelReport((*first.flags, *changes), here, search, second)

    def _changes(self, difference: CallDifference) -> tuple[FlagRecord, ...]:
        """Flags if the model differs from the model before the attacks, or from its attack copy."""
        scale, after = logit_std(self._before), _first_logits(self.job.model, self.job.x_NCHW)
        copy = _first_logits(self.worker.attack_copy, self.job.x_NCHW)
        return flags.from_changes(
            largest_difference(after, self._before) / scale,
            largest_difference(copy, after) / scale,
            self.worker.model.writes,
            difference,
        )


def first_report(job: Job) -> ModelReport:
    """Probe the model of a job: what is known before the attacks."""
    found = (*job.raised, *flags.from_probe(probe_job(job)), *flags.from_overlap(job.overlap))
    return ModelReport(found, environment(job.x_NCHW.device))


def _first_logits(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    return out_of_memory.logits(model, x_NCHW[:PROBED])
