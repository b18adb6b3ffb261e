"""TODO."""

from __future__ import annotations

from pathlib import Path

from robust_eval.core.files import write_text
from robust_eval.core.types import Cost
from robust_eval.evaluation import result_writer
from robust_eval.evaluation.checks import diagnosis as closer
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.cost import measure
from robust_eval.results import (
    RESULT_FILE,
    DiagnosisRecord,
    EvalResult,
    flags,
)


def diagnosed(job: Job, result: EvalResult, folder: Path | None = None) -> EvalResult:
    """The result with a diagnosis and its flags; with a folder both are kept there.

    A diagnosis that the folder already holds is taken: it depends on nothing but the request.
    """
    found = result_writer.stored_diagnosis(folder) or diagnosis(job)
    others = (flag for flag in result.flags if flag.id not in flags.DIAGNOSIS)
    result = result.model_copy(
        update={"diagnosis": found, "flags": flags.distinct((*others, *flags.from_diagnosis(found)))}
    )
    if folder is not None:
        write_text(folder / result_writer.DIAGNOSIS_FILE, found.model_dump_json(indent=1) + "\n")
        write_text(folder / RESULT_FILE, result.to_json())
    return result


def diagnosis(job: Job) -> DiagnosisRecord:
    """A closer look at the model and the attacks, under the job's threat model and seed."""
    return closer.diagnose(job.worker(), seed=job.request.seed, fresh=job.fresh)


def diagnosis_cost(job: Job) -> tuple[int, Cost, float]:
    """(examples, passes for each, seconds) at most, without the fresh process."""
    n, cost = min(closer.EXAMPLES, job.request.data.n), closer.cost()
    return n, cost, measure(job.model, job.x_NCHW[: min(n, 64)]).seconds(cost, n)
