"""Run a job that is already in memory, from its units to the result."""

from __future__ import annotations

from pathlib import Path

from robust_eval.core.errors import UserError
from robust_eval.core.torch_state import standard_state
from robust_eval.evaluation.executors import LoadedJob
from robust_eval.evaluation.executors.display import Display, SilentDisplay
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.run_spec import RunSpec
from robust_eval.evaluation.executors.scheduler import Scheduler
from robust_eval.evaluation.executors.worker_host import WorkerHost
from robust_eval.evaluation.job import Job
from robust_eval.results import EvalResult


@standard_state()
def execute(
    job: Job,
    folder: Path | None = None,
    display: Display | None = None,
    command: str | None = None,
    *,
    diagnose: bool = False,
) -> EvalResult:
    """Run or continue a job. With a folder every finished unit is on disk at once; without, all is in memory.

    If interrupted (Ctrl-C), a partial result is written and KeyboardInterrupt is raised.

    Raises:
        UserError: if the folder cannot be used, or the model or an attack fails.
    """
    display = display or SilentDisplay()
    spec = RunSpec(
        source=LoadedJob(job),
        name=job.request.checkpoint.name,
        folder=lambda _request: folder,
        command=command,
        diagnose=diagnose,
    )
    (run,) = Scheduler([spec], LocalExecutor(WorkerHost(log=display.log)), display).work()
    if run.failures or run.result is None:
        if run.error is not None and not isinstance(run.error, UserError):
            raise run.error
        raise UserError(run.failures[0]) from run.error
    return run.result
