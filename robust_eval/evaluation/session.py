"""A job while it is attacked: its worker, and the reports on the model before and after the attacks."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import asdict, replace

from torch import Tensor

from robust_eval.core.logits import largest_difference, logit_std
from robust_eval.core.types import Bools, CallDifference
from robust_eval.evaluation.attack_copy import Log, choose_config, no_log
from robust_eval.evaluation.checks import answers, finite_differences, precision
from robust_eval.evaluation.checks.answers import Answers
from robust_eval.evaluation.checks.probes import PROBED, probe_job
from robust_eval.evaluation.checks.second_judgement import JudgedImages, judge_again
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.models import out_of_memory
from robust_eval.models.isolation import Isolated
from robust_eval.results import FlagRecord, SearchRecord, TuningRecord, flags
from robust_eval.results.environment import environment

_FEW = 8
"""Images whose gradients are compared with finite differences once more after the attacks."""
_OTHER_GRADIENTS = frozenset(
    {
        flags.RANDOM_GRADIENTS,
        "batch-dependent",
        "discontinuous",
        "misleading-gradients",
        "no-gradients",
        "non-finite-outputs",
        "vanishing-gradients",
    }
)
"""Flags of models whose gradients and finite differences differ from the beginning, or cannot be compared."""


class Session:
    """A job with the worker that attacks it."""

    def __init__(self, job: Job, tuning: str | None = None, log: Log = no_log) -> None:
        """``tuning``: content of the run folder's tuning file, if there is one."""
        self.job = job
        self.config = choose_config(job.request, job.model, job.x_NCHW, job.compile, tuning, log)
        self.worker = job.worker(self.config)
        self._before = self._ask()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the attack copies before the attacks."""
        return (*self.job.notes, *self.config.notes)

    @property
    def first_logits(self) -> Tensor:
        """Logits of the first images before any attack."""
        return self._before.logits_NK

    def report(self, first: ModelReport, clean: Bools, found: JudgedImages) -> ModelReport:
        """The complete report, after the attacks; ``clean`` (n,): examples correct without an attack.

        ``first``: the report before the attacks. ``found``: images that are judged again.
        """
        disagreement = precision.measure_disagreement(self.job.request, self.worker, clean)
        ids = {flag.id for flag in first.flags}
        random = flags.RANDOM_OUTPUTS in ids
        changes = () if random else self._changes(found.difference, ids)
        second = None if random else judge_again(self.job, found, self.first_logits)
        tunings = {name: TuningRecord(**asdict(one)) for name, one in self.config.tunings.items()}
        notes = tuple(dict.fromkeys((*self.job.notes, *self.worker.notes, *self.config.notes)))
        search = SearchRecord(notes=notes, tunings=tunings, disagreement=disagreement)
        here = environment(self.job.x_NCHW.device)
        return ModelReport((*first.flags, *changes), here, search, second)

    def _changes(self, difference: CallDifference, first: Set[str]) -> tuple[FlagRecord, ...]:
        """Flags if the model differs from the model before the attacks, or from its attack copy.

        ``first``: ids of the flags before the attacks.
        """
        after = self._ask()
        copy = out_of_memory.logits(self.worker.attack_copy, self.job.x_NCHW[:PROBED])
        random = flags.RANDOM_GRADIENTS in first
        other = bool(first & _OTHER_GRADIENTS)
        if random:
            difference = replace(difference, cosine=1.0)
        if other:
            difference = replace(difference, slopes=1.0)
        return flags.from_changes(
            answers.change(self._before, after),
            largest_difference(copy, after.logits_NK) / logit_std(self.first_logits),
            self.worker.model.writes,
            difference,
            1.0 if random else answers.cosine(self._before, after),
            1.0 if other else self._cosine(),
        )

    def _cosine(self) -> float:
        """Lowest cosine of gradients with finite differences on a few images; fewer if memory is short."""
        job, model = self.job, Isolated(self.job.model)

        def lowest(n: int) -> float:
            x = job.x_NCHW[:n]
            found = finite_differences.gradient_cosines(
                model, x, job.y_N[:n], job.request.threat, x, len(x), quick=True
            )
            return found.lowest[0]

        return out_of_memory.with_fewer(lowest, min(_FEW, len(job.x_NCHW)))

    def _ask(self) -> Answers:
        job = self.job
        return answers.ask(job.model, job.x_NCHW[:PROBED], job.y_N[:PROBED], job.request.threat)


def first_report(job: Job) -> ModelReport:
    """Probe the model of a job: what is known before the attacks."""
    found = (*job.raised, *flags.from_probe(probe_job(job)), *flags.from_overlap(job.overlap))
    return ModelReport(found, environment(job.x_NCHW.device))
