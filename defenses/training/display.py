"""What a run prints: a progress bar on a terminal, one line per epoch everywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from defenses.training.context import TrainingContext
from defenses.training.state import TrainingProgress
from robust_eval.core.text import duration


class TrainingDisplay(Protocol):
    """Receives the events of a run, in this order."""

    def begin(self, context: TrainingContext, progress: TrainingProgress, notes: Sequence[str]) -> None: ...

    def update(self, progress: TrainingProgress, loss: float, accuracy: float) -> None:
        """After an update: its loss, and the accuracy on its own training images."""

    def epoch(self, progress: TrainingProgress, row: dict[str, float], better: bool) -> None:
        """After an epoch: its row of the learning curve, and whether it is the best so far."""

    def end(self) -> None: ...


class SilentTrainingDisplay:
    """Prints nothing: for calls from code, and for all processes but the first."""

    def begin(self, context: TrainingContext, progress: TrainingProgress, notes: Sequence[str]) -> None: ...

    def update(self, progress: TrainingProgress, loss: float, accuracy: float) -> None: ...

    def epoch(self, progress: TrainingProgress, row: dict[str, float], better: bool) -> None: ...

    def end(self) -> None: ...


class ConsoleTrainingDisplay:
    """One line per epoch; within an epoch a progress bar on a terminal, else one line per minute."""

    LINE_SECONDS = 60.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._last = time.monotonic()
        self._epochs, self._iterations, self._start_fraction = 1, 1, 0.0

    def begin(self, context: TrainingContext, progress: TrainingProgress, notes: Sequence[str]) -> None:
        self._epochs, self._iterations = context.job.recipe.training.epochs, context.sampler.iterations
        self._started = self._last = time.monotonic()
        self._start_fraction = self._fraction(progress)
        for note in notes:
            self._print(f"  {note}")
        if progress.epoch or progress.iteration:
            self._print(f"resumed after epoch {progress.epoch}, update {progress.iteration}")
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=self._iterations)
            self._bar.start()

    def update(self, progress: TrainingProgress, loss: float, accuracy: float) -> None:
        speed = progress.images / max(progress.seconds, 1e-9)
        text = (
            f"epoch {progress.epoch + 1}/{self._epochs}  loss {loss:.3f}  batch {100 * accuracy:.0f}%  "
            f"{_last_validation(progress)}{speed:.0f} img/s  {self._remaining(progress)}"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress.iteration, description=text)
        elif time.monotonic() - self._last > self.LINE_SECONDS:
            self._last = time.monotonic()
            self._print(f"{text}, update {progress.iteration}/{self._iterations}")

    def epoch(self, progress: TrainingProgress, row: dict[str, float], better: bool) -> None:
        self._last = time.monotonic()
        self._print(epoch_line(row, self._epochs, better) + f"  {self._remaining(progress)}")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        self._console.print(text.rstrip(), highlight=False, markup=False, soft_wrap=True)

    def _fraction(self, progress: TrainingProgress) -> float:
        """The fraction of all updates that are done."""
        return (progress.epoch + progress.iteration / self._iterations) / self._epochs

    def _remaining(self, progress: TrainingProgress) -> str:
        """The estimated remaining time, from the updates since ``begin``."""
        fraction = self._fraction(progress)
        done = fraction - self._start_fraction
        if done <= 0 or fraction >= 1:
            return ""
        return f"{duration((time.monotonic() - self._started) * (1 - fraction) / done)} left"


def _last_validation(progress: TrainingProgress) -> str:
    """Clean and PGD accuracy on the validation images at the latest measurement."""
    row = next((row for row in reversed(progress.rows) if "val_clean" in row), None)
    return "" if row is None else f"val {100 * row['val_clean']:.1f}/{100 * row['val_pgd']:.1f}  "


def epoch_line(row: dict[str, float], epochs: int, better: bool) -> str:
    """``epoch 3/30  lr 0.1  loss 1.23  train 91.2/70.1  val 90.8/66.5  best``: clean/PGD in percent."""
    parts = [f"epoch {row['epoch']:.0f}/{epochs}", f"lr {row['lr']:.4g}", f"loss {row['loss']:.3f}"]
    if row["budget"] < 1:
        parts.append(f"eps x{row['budget']:.2f}")
    for name in ("train", "val", "test"):
        if f"{name}_clean" in row:
            parts.append(f"{name} {100 * row[f'{name}_clean']:.1f}/{100 * row[f'{name}_pgd']:.1f}")
    if "robust_gap" in row:
        parts.append(f"gap {100 * row['robust_gap']:.1f}")
    parts.append(f"{row['images_per_second']:.0f} img/s")
    return "  ".join(parts) + ("  best" if better else "")
