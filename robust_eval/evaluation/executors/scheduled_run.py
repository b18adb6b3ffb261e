"""A run that the scheduler works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from robust_eval.core.files import write_text
from robust_eval.evaluation.attack_copy import TUNING_FILE
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.executors import PreparedModel
from robust_eval.evaluation.executors.run_spec import RunSpec
from robust_eval.evaluation.executors.run_states import Closed, Opened, Running, Waiting
from robust_eval.evaluation.planning.cascade import CascadeState
from robust_eval.results import EvalResult


@dataclass(eq=False)
class Run:
    """A run with its present state."""

    spec: RunSpec
    number: int = 0
    """Position in the command; earlier runs are finished first."""
    state: Waiting | Opened | Running | Closed = field(default_factory=Waiting)
    outstanding: int = 0
    """Number of tasks that were given to workers or wait for one."""
    failures: list[str] = field(default_factory=list)
    error: BaseException | None = None
    """The exception behind the first failure, if it was raised in this process."""

    @property
    def closed(self) -> bool:
        return isinstance(self.state, Closed)

    @property
    def result(self) -> EvalResult | None:
        return self.state.result if isinstance(self.state, Closed) else None

    @property
    def opened(self) -> Opened | None:
        """Folder and request, once they are known."""
        state = self._last
        return state.opened if isinstance(state, Running) else state if isinstance(state, Opened) else None

    @property
    def running(self) -> Running | None:
        """Units and counts, once the model is probed; they stay after the end."""
        return self._last if isinstance(self._last, Running) else None

    @property
    def folder(self) -> Path | None:
        return None if self.opened is None else self.opened.folder

    @property
    def _last(self) -> Waiting | Opened | Running:
        return self.state.last if isinstance(self.state, Closed) else self.state

    def prepared(self, found: PreparedModel) -> Running:
        """Enter the state Running; the logits identify the model when the run is continued.

        Raises:
            UserError: if the run was started with another model.
        """
        assert isinstance(self.state, Opened)
        opened = self.state
        if opened.folder is not None:
            same_model.check(opened.folder, found.first_logits)
            if found.tuning is not None:
                write_text(opened.folder / TUNING_FILE, found.tuning)
        cascade = CascadeState(opened.request, opened.spec.shard)
        self.state = Running(opened, found.tuning, found.report, cascade)
        return self.state

    def close(self, result: EvalResult | None = None) -> None:
        """End the run, unless it has ended."""
        if not isinstance(self.state, Closed):
            self.state = Closed(self.state, result)

    def fail(self, text: str, error: BaseException | None = None) -> None:
        """Record a failure; the run continues until it is closed."""
        self.failures.append(text)
        self.error = self.error or error

    def write_partial(self) -> None:
        """Write the finished columns as a partial result and end the run."""
        result = self.state.partial_result() if isinstance(self.state, Running) else None
        self.close(result)
