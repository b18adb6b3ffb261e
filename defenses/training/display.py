"""What a run shows while it trains: a live bar on a terminal, a line per epoch everywhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from defenses.training.state import Run


class TrainingDisplay(Protocol):
    def begin(self, run: Run) -> None: ...

    def update(self, run: Run, loss: float, accuracy: float) -> None: ...

    def epoch(self, run: Run, row: dict[str, float], better: bool) -> None: ...

    def end(self) -> None: ...


class SilentTrainingDisplay:
    """For calls from code, and for all processes but the first."""

    def begin(self, run: Run) -> None: ...

    def update(self, run: Run, loss: float, accuracy: float) -> None: ...

    def epoch(self, run: Run, row: dict[str, float], better: bool) -> None: ...

    def end(self) -> None: ...


class ConsoleTrainingDisplay:
    """A line per epoch, and one a minute in between; with a live bar where there is a terminal."""

    EVERY = 60.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._last = time.monotonic()
        self._start_fraction = 0.0

    def begin(self, run: Run) -> None:
        self._started = self._last = time.monotonic()
        self._start_fraction = _fraction(run)
        for note in run.notes:
            self._print(f"  {note}")
        if run.progress.epoch or run.progress.iteration:
            self._print(f"resumed after epoch {run.progress.epoch}, update {run.progress.iteration}")
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=run.mix.iterations)
            self._bar.start()

    def update(self, run: Run, loss: float, accuracy: float) -> None:
        """After an update: its loss, and the accuracy on its own training images."""
        progress = run.progress
        text = (
            f"epoch {progress.epoch + 1}/{run.job.recipe.training.epochs}  loss {loss:.3f}  "
            f"batch {100 * accuracy:.0f}%  {_last_measured(run)}{self._speed(run)}"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress.iteration, description=text)
        elif time.monotonic() - self._last > self.EVERY:
            self._last = time.monotonic()
            self._print(f"{text}, update {progress.iteration}/{run.mix.iterations}")

    def epoch(self, run: Run, row: dict[str, float], better: bool) -> None:
        self._last = time.monotonic()
        self._print(epoch_line(row, run.job.recipe.training.epochs, better) + f"  {self._left(run)}")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        self._console.print(text.rstrip(), highlight=False, markup=False, soft_wrap=True)

    def _speed(self, run: Run) -> str:
        progress = run.progress
        return f"{progress.images / max(progress.seconds, 1e-9):.0f} img/s  {self._left(run)}"

    def _left(self, run: Run) -> str:
        """Time to go, from what this session has done."""
        done = _fraction(run) - self._start_fraction
        if done <= 0 or _fraction(run) >= 1:
            return ""
        return f"{duration((time.monotonic() - self._started) * (1 - _fraction(run)) / done)} left"


def _last_measured(run: Run) -> str:
    """Clean and PGD accuracy on the held-out images at the latest measurement."""
    row = next((row for row in reversed(run.progress.rows) if "val_clean" in row), None)
    return "" if row is None else f"val {100 * row['val_clean']:.1f}/{100 * row['val_pgd']:.1f}  "


def _fraction(run: Run) -> float:
    whole = run.progress.epoch + run.progress.iteration / run.mix.iterations
    return whole / run.job.recipe.training.epochs


def epoch_line(row: dict[str, float], epochs: int, better: bool) -> str:
    """``epoch 3/30  lr 0.1  loss 1.23  train 91.2/70.1  val 90.8/66.5 *``: clean/PGD in percent."""
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


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
