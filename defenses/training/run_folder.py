"""The run folder: which files are written when, and error messages if the disk is full."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from defenses.recipes import schedules
from defenses.runs.files import CURVE, RECORD, Reserve, make_folder
from defenses.runs.learning_curve import is_written, write_csv
from defenses.training import checkpoints, resume_file
from defenses.training.context import TrainingContext
from defenses.training.state import TrainingState
from robust_eval.core.errors import UserError
from robust_eval.core.folders import lock_folder

SAVE_EVERY_SECONDS = 600.0
"""Within a long epoch the state is saved this often."""


def snapshot_path(folder: Path, number: int) -> Path:
    """The checkpoint at the end of a schedule's period; ``number`` counts from 1."""
    return folder / f"snapshot-{number}.pt"


class RunFolder:
    """Writes checkpoints, learning curve and resume file, each atomically.

    A failed write saves the state in reserved disk space and raises UserError. Only one of several
    processes ``writes``, and locks the folder from ``open`` to ``close``; the others only read, to resume.
    """

    def __init__(self, context: TrainingContext, state: TrainingState, *, writes: bool) -> None:
        self._context, self._state, self._writes = context, state, writes
        self._job, self._path = context.job, context.job.folder
        self._identity = context.identity()
        self._reserve = Reserve(self._path / ".reserve")
        self._saved_at = time.monotonic()
        self._saved_epoch = 0
        self._lock = ExitStack()

    def open(self) -> tuple[str, ...]:
        """Start a new folder, or restore the state of the run in it; returns notes for the user."""
        try:
            if self._writes:
                self._lock_folder()
            return self._restore() if self._job.options.resume else self._start()
        except BaseException:
            self._lock.close()
            raise

    def end_training(self) -> None:
        """Release the reserved disk space; the folder stays locked."""
        self._reserve.release()

    def close(self) -> None:
        """Release the reserved disk space and the lock."""
        self._reserve.release()
        self._lock.close()

    def _lock_folder(self) -> None:
        resume = self._job.options.resume
        if resume and not self._path.is_dir():
            return  # reported with the missing resume file
        make_folder(self._path)
        if not resume and self._path.resolve() == Path.cwd() and any(self._path.iterdir()):
            raise UserError("The current folder is not empty: name a new one with --out.")
        self._lock.enter_context(lock_folder(self._path))

    def _start(self) -> tuple[str, ...]:
        if not self._writes:
            return ()
        if (self._path / resume_file.FILE).exists():
            raise UserError(
                f"{self._path} already holds a run: continue it with --resume, or choose another folder "
                "with --out."
            )
        self._write(lambda: checkpoints.write_record(self._job, self._identity, self._context.notes))
        return ()

    def save_epoch(self, row: dict[str, float], better: bool) -> None:
        """After an epoch: checkpoints and curve first, the state last, so that a crash repeats the epoch."""
        self._write(lambda: self._write_epoch(row, better))

    def save_state(self) -> None:
        """Write the resume file only; also within an epoch."""
        self._write(self._write_state)

    def save_if_due(self) -> None:
        """Write the resume file if the last one is older than SAVE_EVERY_SECONDS."""
        if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
            self.save_state()

    def _write_epoch(self, row: dict[str, float], better: bool) -> None:
        recipe, network, done = self._job.recipe, self._state.eval_network, self._state.progress.epoch
        every, periods = recipe.selection.keep_every, recipe.schedule.periods
        # Without validation images the latest epoch is the best.
        best: checkpoints.Selected = "last" if self._job.validation is None else "validation"
        selected: dict[str, checkpoints.Selected] = {"last.pt": "last"}
        if better:
            selected["best.pt"] = best
        if every and done % every == 0:
            selected[f"epoch-{done:04d}.pt"] = "unknown"
        for name, how in selected.items():
            checkpoints.save_model(self._job, self._path / name, network, row, selected=how)
        if periods and schedules.ends_period(periods, recipe.training.epochs, done - 1):
            number = schedules.period(periods, recipe.training.epochs, done - 1)[0] + 1
            checkpoints.save_model(self._job, snapshot_path(self._path, number), network, row)
        write_csv(self._path / CURVE, self._state.progress.rows)
        self._write_state()

    def _write_state(self) -> None:
        size = resume_file.save(self._path, self._identity, self._state.saved(self._context.runtime))
        self._saved_at, self._saved_epoch = time.monotonic(), self._state.progress.epoch
        self._reserve.fill(size + size // 50 + 65536)

    def _restore(self) -> tuple[str, ...]:
        runtime = self._context.runtime
        saved = resume_file.load(self._path, self._identity)
        try:
            notes = self._state.restore(saved, runtime)
        except (AttributeError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{self._path / resume_file.FILE} does not fit this run ({error}). Start a new run in "
                "another folder (--out)."
            ) from None
        progress = self._state.progress
        self._saved_epoch = progress.epoch
        if not (self._path / RECORD).exists():
            self._write(lambda: checkpoints.write_record(self._job, self._identity, self._context.notes))
        rows = progress.rows
        if rows and not progress.iteration and not is_written(self._path / CURVE, rows):
            # After a full disk possibly only the state was saved: write the other files now.
            self.save_epoch(rows[-1], progress.best_epoch == progress.epoch)
        return notes

    def _write(self, write: Callable[[], object]) -> None:
        if not self._writes:
            return
        try:
            write()
        except (OSError, UserError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else str(error)
            raise UserError(f"Writing to {self._path} failed ({reason}). {self._rescue()}") from None

    def _rescue(self) -> str:
        """Save the state in the reserved disk space; returns the advice for the user."""
        progress = self._state.progress
        self._reserve.release()
        try:
            resume_file.save(self._path, self._identity, self._state.saved(self._context.runtime))
        except OSError:
            if not (self._path / resume_file.FILE).exists():
                return "Nothing had been saved yet: free disk space and run the same command again."
            saved = f"The state after epoch {self._saved_epoch}" if self._saved_epoch else "An earlier state"
            return f"{saved} is saved; free disk space and continue with --resume."
        done = f"epoch {progress.epoch}" + (
            f" and {progress.iteration} updates" if progress.iteration else ""
        )
        return f"The state after {done} is saved: free disk space and continue with --resume."
