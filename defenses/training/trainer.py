"""The loop over epochs: train, measure, select, save; stop early if the recipe or the user asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from defenses.runs.learning_curve import NoTensorBoard, TensorBoard, TensorBoardWriter
from defenses.training.accuracy import Accuracies
from defenses.training.context import TrainingContext, begin
from defenses.training.display import TrainingDisplay
from defenses.training.early_stopping import check_collapse, patience_exhausted, select_checkpoint
from defenses.training.epoch import curve_row, measure_epoch, train_epoch
from defenses.training.job import TrainingJob
from defenses.training.run_folder import RunFolder
from defenses.training.runtime import Runtime
from defenses.training.signals import InterruptHandler, TrainingInterrupted
from defenses.training.snapshot_ensemble import build_ensemble
from defenses.training.state import TrainingState


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of a run: the learning curve's rows of the best and the last epoch."""

    folder: Path
    best: dict[str, float]
    last: dict[str, float]
    ensemble: Accuracies | None
    """On the validation images; None without an ensemble or without validation images."""
    epochs: int


def train(
    job: TrainingJob, runtime: Runtime, display: TrainingDisplay, interrupt: InterruptHandler
) -> TrainingOutcome:
    """Train a job to its end in its folder. Only the first of several processes writes.

    Raises:
        UserError: the loss is not finite, the network collapsed, or the disk is full.
        TrainingInterrupted: a signal arrived.
    The state is saved in all cases except a non-finite loss, where the state of the last epoch remains.
    """
    context, state = begin(job, runtime)
    first = runtime.rank == 0
    folder = RunFolder(context, state, writes=first)
    notes = context.notes + folder.open()
    board: TensorBoardWriter = NoTensorBoard()
    try:
        if first and job.options.tensorboard:
            board = TensorBoard(job.folder / "tensorboard", state.progress.epoch + 1)
        display.begin(context, state.progress, notes)
        while state.progress.epoch < job.recipe.training.epochs:
            if patience_exhausted(state.progress, job.recipe):
                break
            row, better = _run_epoch(context, state, folder, display, interrupt)
            board.add(row)
            display.epoch(state.progress, row, better)
            check_collapse(state.progress, job.recipe, job.folder)
    except TrainingInterrupted:
        folder.save_state()
        raise
    else:
        folder.end_training()
        ensemble = build_ensemble(context) if first else None
    finally:
        display.end()
        board.close()
        folder.close()
    rows = state.progress.rows
    best = next(row for row in rows if row["epoch"] == state.progress.best_epoch)
    return TrainingOutcome(job.folder, best, rows[-1], ensemble, state.progress.epoch)


def _run_epoch(
    context: TrainingContext,
    state: TrainingState,
    folder: RunFolder,
    display: TrainingDisplay,
    interrupt: InterruptHandler,
) -> tuple[dict[str, float], bool]:
    """Train, measure and save one epoch; returns its row and whether it is the best so far."""
    runtime = context.runtime

    def safe_point() -> None:
        """Between updates: stop after a signal (all processes together), save long epochs."""
        if runtime.world > 1:
            interrupt.requested = runtime.any(interrupt.requested)
        interrupt.check()
        folder.save_if_due()

    train_epoch(context, state, display, safe_point)
    average_running_statistics(context, state)
    accuracies = measure_epoch(context, state, interrupt.check)
    row = curve_row(context, state.progress, accuracies)
    better = select_checkpoint(
        state.progress, context.job.recipe, accuracies, held_out="val" in context.pools
    )
    state.progress.finish_epoch(row)
    folder.save_epoch(row, better)
    return row, better


def average_running_statistics(context: TrainingContext, state: TrainingState) -> None:
    """Average BatchNorm's running statistics over processes, so that all measure the same model."""
    if context.runtime.reduce is not None:
        networks = dict.fromkeys((state.network, state.eval_network))
        buffers = [buffer for network in networks for buffer in network.buffers()]
        context.runtime.reduce([buffer for buffer in buffers if torch.is_floating_point(buffer)])
