"""The loop over epochs: train, measure, keep, and stop when there is reason to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from defenses.runs.learning_curve import NoTensorBoard, TensorBoard, TensorBoardWriter
from defenses.training import early_stopping, snapshot_ensemble
from defenses.training import epoch as epochs
from defenses.training.accuracy import Accuracies
from defenses.training.display import TrainingDisplay
from defenses.training.job import TrainingJob
from defenses.training.run_folder import RunFolder
from defenses.training.runtime import Runtime
from defenses.training.signals import InterruptHandler, TrainingInterrupted
from defenses.training.state import Run, begin


@dataclass(frozen=True)
class TrainingOutcome:
    """How a run ended: the learning curve's rows of the best and the last epoch."""

    folder: Path
    best: dict[str, float]
    last: dict[str, float]
    ensemble: Accuracies | None
    epochs: int


def train(
    job: TrainingJob, runtime: Runtime, display: TrainingDisplay, stopper: InterruptHandler
) -> TrainingOutcome:
    """Train a job to its end in its folder.

    Raises UserError on NaN, collapse or a full disk and TrainingInterrupted on a signal; the state is saved in each
    case but NaN, where the last whole epoch's stands. Only the first of several processes writes.
    """
    run = begin(job, runtime)
    first = runtime.rank == 0
    keeper = RunFolder(run, writes=first)
    keeper.open()
    board: TensorBoardWriter = NoTensorBoard()
    if first and job.options.tensorboard:
        board = TensorBoard(job.folder / "tensorboard", run.progress.epoch + 1)
    try:
        display.begin(run)
        while run.progress.epoch < job.recipe.training.epochs:
            if early_stopping.patience_exhausted(run.progress, job.recipe):
                break
            _epoch(run, keeper, board, display, stopper)
    except TrainingInterrupted:
        keeper.state()
        raise
    finally:
        display.end()
        board.close()
        keeper.close()
    ensemble = snapshot_ensemble.finish(run) if first else None
    rows = run.progress.rows
    best = next(row for row in rows if row["epoch"] == run.progress.best_epoch)
    return TrainingOutcome(job.folder, best, rows[-1], ensemble, run.progress.epoch)


def _epoch(
    run: Run, keeper: RunFolder, board: TensorBoardWriter, display: TrainingDisplay, stopper: InterruptHandler
) -> None:
    def safe_point() -> None:
        """Between updates the run is whole: heed a signal, and save now and then."""
        if run.runtime.world > 1:
            stopper.asked = run.runtime.any(stopper.asked)
        stopper.check()
        keeper.now_and_then()

    progress = run.progress
    epochs.train_epoch(run, display, safe_point)
    _share_statistics(run)
    found = epochs.measured(run, stopper.check)
    row = epochs.row(run, found)
    better = early_stopping.select_checkpoint(progress, run.job.recipe, found, held_out="val" in run.pools)
    progress.rows.append(row)
    progress.epoch += 1
    progress.iteration, progress.loss_sum, progress.images, progress.seconds = 0, 0.0, 0, 0.0
    keeper.epoch(row, better)
    board.add(row)
    display.epoch(run, row, better)
    early_stopping.check_collapse(progress, run.job.recipe, run.job.folder)


def _share_statistics(run: Run) -> None:
    """BatchNorm's running statistics averaged over processes: all then measure the same model."""
    if run.runtime.reduce is not None:
        networks = dict.fromkeys((run.network, run.judged))
        run.runtime.reduce([b for one in networks for b in one.buffers() if torch.is_floating_point(b)])
