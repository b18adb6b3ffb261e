"""Keeps a run's folder: what is written when, and what happens when the disk is full."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from defenses.recipes import schedules
from defenses.runs.files import CURVE, RECORD, Reserve, make_folder
from defenses.runs.learning_curve import is_written, write_csv
from defenses.training import checkpoints, resume_file
from defenses.training.state import Run
from robust_eval.core.errors import UserError

# Within a long epoch the state is saved this often.
EVERY_SECONDS = 600.0


def snapshot_path(folder: Path, number: int) -> Path:
    """The checkpoint at the end of a schedule's period; ``number`` counts from 1."""
    return folder / f"snapshot-{number}.pt"


class RunFolder:
    """Writes whole files only. A write that fails ends the run after its state has been saved.

    Of several processes only the first ``writes``; the others read, to resume.
    """

    def __init__(self, run: Run, *, writes: bool) -> None:
        self.writes = writes
        self.run, self.job, self.folder = run, run.job, run.job.folder
        self._identity = run.identity()
        self._reserve = Reserve(self.folder / ".reserve")
        self._saved_at = time.monotonic()
        self._saved_epoch = 0

    def open(self) -> None:
        """Begin a fresh folder, or take up the run that is in it."""
        if self.job.options.resume:
            self._restore()
            return
        if not self.writes:
            return
        make_folder(self.folder)
        if self.folder.resolve() == Path.cwd() and any(self.folder.iterdir()):
            raise UserError("The current folder is not empty: name a new one with --out.")
        if (self.folder / resume_file.FILE).exists():
            raise UserError(
                f"{self.folder} already holds a run: go on with it with --resume, or choose another folder "
                "with --out."
            )
        self._keep(lambda: checkpoints.write_record(self.job, self._identity))

    def close(self) -> None:
        self._reserve.release()

    def epoch(self, row: dict[str, float], better: bool) -> None:
        """After an epoch: checkpoints and curve first, the state last, so that a crash repeats the epoch."""
        self._keep(lambda: self._write_epoch(row, better))

    def state(self) -> None:
        """The state alone, in mid-epoch."""
        self._keep(self._write_state)

    def now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > EVERY_SECONDS:
            self.state()

    def _write_epoch(self, row: dict[str, float], better: bool) -> None:
        run, recipe, folder = self.run, self.job.recipe, self.folder
        done = run.progress.epoch
        names = ["last.pt"]
        names += ["best.pt"] if better else []
        every, periods = recipe.selection.keep_every, recipe.schedule.periods
        names += [f"epoch-{done:04d}.pt"] if every and done % every == 0 else []
        # Without held-out images the latest epoch passes for the best.
        best: checkpoints.Selected = "last" if self.job.validation is None else "validation"
        how: dict[str, checkpoints.Selected] = {"last.pt": "last", "best.pt": best}
        for name in names:
            selected = how.get(name, "unknown")
            checkpoints.save_model(self.job, folder / name, run.judged, row, selected=selected)
        if periods and schedules.ends_period(periods, recipe.training.epochs, done - 1):
            number = schedules.period(periods, recipe.training.epochs, done - 1)[0] + 1
            checkpoints.save_model(self.job, snapshot_path(folder, number), run.judged, row)
        write_csv(folder / CURVE, run.progress.rows)
        self._write_state()

    def _write_state(self) -> None:
        size = resume_file.save(self.folder, self._identity, self.run.state())
        self._saved_at, self._saved_epoch = time.monotonic(), self.run.progress.epoch
        self._reserve.fill(size + size // 50 + 65536)

    def _restore(self) -> None:
        run = self.run
        state = resume_file.load(self.folder, self._identity, run.runtime.device)
        try:
            run.restore(state)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{self.folder / resume_file.FILE} does not fit this run ({error}). Start anew in another folder "
                "(--out)."
            ) from None
        self._saved_epoch = run.progress.epoch
        if not (self.folder / RECORD).exists():
            self._keep(lambda: checkpoints.write_record(self.job, self._identity))
        rows = run.progress.rows
        if rows and not run.progress.iteration and not is_written(self.folder / CURVE, rows):
            # A run that ended on a full disk may have saved its state alone: write the rest now.
            self.epoch(rows[-1], run.progress.best_epoch == run.progress.epoch)

    def _keep(self, write: Callable[[], object]) -> None:
        if not self.writes:
            return
        try:
            write()
        except (OSError, UserError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else str(error)
            raise UserError(f"Writing to {self.folder} failed ({reason}). {self._rescue()}") from None

    def _rescue(self) -> str:
        """Save the state with the space that was set aside for it; what to tell the user."""
        progress = self.run.progress
        self._reserve.release()
        try:
            resume_file.save(self.folder, self._identity, self.run.state())
        except OSError:
            if not (self.folder / resume_file.FILE).exists():
                return "Nothing had been saved yet: make room and give the same command again."
            kept = f"The state after epoch {self._saved_epoch}" if self._saved_epoch else "An earlier state"
            return f"{kept} is saved; make room and go on with --resume."
        where = f"epoch {progress.epoch}" + (
            f" and {progress.iteration} updates" if progress.iteration else ""
        )
        return f"The state after {where} is saved: make room and go on with --resume."
