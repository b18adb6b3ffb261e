"""What curve, plane and perturbation share: measuring the points of a scan with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robust_eval.cli.landscape.frame import run_folder

if TYPE_CHECKING:
    from robust_eval.landscape.awp.points import MeasuredLoss, WeightPoint
    from robust_eval.landscape.awp.scan import Losses, Scan
    from robust_eval.landscape.checkpoints import ComparedModel


def measure_scan(
    console: Console, scan: Scan, wanted: Sequence[WeightPoint], out: Path | None
) -> tuple[Losses, Path]:
    """Losses at the ``wanted`` points, and the run folder they are stored in."""
    from robust_eval.landscape.awp.scan import run_scan

    points = [*wanted, *scan.precision_checks()]
    total = len(points) * len(scan.comparison.models)
    notes = {
        "directions": f"{scan.directions.count} ({scan.setting.directions[:60]})",
        "points": f"{total} of {scan.setting.data.n} images each",
    }
    with run_folder(console, scan, out, notes) as folder, ScanProgress(total, console) as progress:
        losses = run_scan(scan, points, folder, progress.advance)
    return losses, folder


def loss_text(value: float | None) -> str:
    """``1.2345``, or ``not finite`` for None and NaN."""
    return "not finite" if value is None or value != value else f"{value:.4f}"


class ScanProgress:
    """A progress bar on a terminal; elsewhere one line every 30 seconds."""

    INTERVAL_S = 30.0

    def __init__(self, total: int, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("points", total=total)
        self._total, self._done, self._console, self._last = total, 0, console, time.monotonic()

    def advance(self, model: ComparedModel, measured: MeasuredLoss, stored: bool) -> None:
        """Count one point; ``stored``: it was read from the run folder."""
        self._done += 1
        self._bar.update(self._task, advance=1, description=model.label)
        now = time.monotonic()
        if not self._console.is_terminal and not stored and now - self._last > self.INTERVAL_S:
            self._last = now
            self._console.print(f"{self._done}/{self._total} points, the last took {measured.seconds:.1f} s")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
