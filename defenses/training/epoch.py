"""One epoch: its updates, its accuracies, its row of the learning curve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from defenses.recipes import schedules
from defenses.recipes.recipe import Recipe
from defenses.training.accuracy import Accuracies, measure_accuracies
from defenses.training.augmentation import augment, mixup
from defenses.training.context import TrainingContext
from defenses.training.forward_passes import ForwardPasses
from defenses.training.job import TrainingJob
from defenses.training.optimiser import set_learning_rate
from defenses.training.signals import UntrainableError
from defenses.training.state import TrainingProgress, TrainingState
from robust_eval.core.seeds import derive
from robust_eval.models.normalisation import Normalised

if TYPE_CHECKING:
    from defenses.training.display import TrainingDisplay


def epsilon_fraction(recipe: Recipe, epoch: int) -> float:
    """The fraction of epsilon in a 0-based epoch, in [0, 1]."""
    return schedules.epsilon_fraction(recipe.budget, recipe.schedule.periods, recipe.training.epochs, epoch)


def perturbs_weights(recipe: Recipe, epoch: int) -> bool:
    """Whether weight perturbation is on in a 0-based epoch, that is after its warm-up."""
    config = recipe.perturbation
    warmup = schedules.warmup_epochs(config.warmup, recipe.training.epochs)
    return config.kind != "none" and config.gamma > 0 and epoch >= warmup


def learning_rate(recipe: Recipe, epoch: int, iteration: int, iterations: int) -> float:
    """The rate of update ``iteration`` of ``iterations`` in an epoch; all count from 0."""
    t = schedules.epochs_elapsed(recipe.schedule, epoch, iteration, iterations)
    return schedules.learning_rate(recipe.schedule, recipe.optimiser.lr, recipe.training.epochs, t)


def train_epoch(
    context: TrainingContext, state: TrainingState, display: TrainingDisplay, safe_point: Callable[[], None]
) -> None:
    """The remaining updates of the current epoch; ``safe_point`` is called after each and may raise."""
    job, recipe, runtime, sampler = context.job, context.job.recipe, context.runtime, context.sampler
    progress = state.progress
    fraction, perturb = epsilon_fraction(recipe, progress.epoch), perturbs_weights(recipe, progress.epoch)
    for x_NCHW, y_N in sampler.batches(progress.epoch, progress.iteration, runtime.rank, runtime.world):
        started = time.perf_counter()
        i = progress.iteration
        # A seed per update: a resumed run draws the same numbers as an uninterrupted one.
        torch.manual_seed(derive(job.options.seed, "update", str(progress.epoch), str(i), str(runtime.rank)))
        x_NCHW, y = _augmented(job, x_NCHW, y_N)
        set_learning_rate(state.optimiser, learning_rate(recipe, progress.epoch, i, sampler.iterations))
        size = sampler.size(i)
        share = len(y_N) * runtime.world / size
        terms = context.step(x_NCHW, y, epsilon_fraction=fraction, perturb=perturb, share=share)
        if runtime.reduce is not None:
            runtime.reduce([terms.loss])
        # The only synchronisation with the device in an update.
        right = (terms.logits_NK.argmax(1) == y_N).float().mean()
        loss, accuracy = torch.stack([terms.loss, right]).tolist()
        if not math.isfinite(loss):
            raise _not_finite(context, progress, loss)
        if state.average is not None:
            state.average.update(state.network)
        progress.iteration += 1
        progress.loss_sum += loss * size
        progress.images += size
        progress.seconds += time.perf_counter() - started
        display.update(progress, loss, accuracy)
        safe_point()


def _augmented(job: TrainingJob, x_NCHW: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    config = job.recipe.augment
    x_NCHW, y = augment(x_NCHW, config), y_N
    if config.mixup:
        x_NCHW, y = mixup(x_NCHW, y_N, config.mixup, job.train.classes)
    return x_NCHW.contiguous(memory_format=torch.channels_last), y


def _not_finite(context: TrainingContext, progress: TrainingProgress, loss: float) -> UntrainableError:
    job = context.job
    saved = f"last.pt holds epoch {progress.epoch}" if progress.epoch else "nothing was saved yet"
    tips = "a lower --set optimiser.lr"
    if job.recipe.perturbation.kind != "none":
        tips += ", a smaller perturbation.gamma or a longer perturbation.warmup"
    if job.options.precision != "32":
        tips += ", or --precision 32"
    advice = "Look at the epochs before it in curve.csv, and try" if progress.epoch else "Try"
    return UntrainableError(
        f"The loss became {loss} in epoch {progress.epoch + 1}, update {progress.iteration + 1} of "
        f"{context.sampler.iterations}; {saved} ({job.folder}). {advice} {tips}."
    )


def measurement_due(recipe: Recipe, epoch: int) -> bool:
    """Whether accuracies are measured after a 0-based epoch: every ``selection.every``, and the last."""
    done = epoch + 1
    return done % recipe.selection.every == 0 or done == recipe.training.epochs


def measure_epoch(
    context: TrainingContext, state: TrainingState, check: Callable[[], None]
) -> dict[str, Accuracies]:
    """The accuracies of the evaluated network on every pool; empty if the epoch is not measured."""
    job, runtime = context.job, context.runtime
    if not measurement_due(job.recipe, state.progress.epoch):
        return {}
    network = state.eval_network
    averaged = network is not state.network
    model = Normalised(network, job.normalisation).to(runtime.device) if averaged else context.model
    forward = ForwardPasses(model, runtime.autocast).with_frozen_weights()
    # If one of several processes stopped during the measurement, the others would wait for its counts.
    check = check if runtime.world == 1 else _no_check
    return {
        name: measure_accuracies(model, pool, job.recipe, forward, check, runtime)
        for name, pool in context.pools.items()
    }


def _no_check() -> None: ...


def curve_row(
    context: TrainingContext, progress: TrainingProgress, accuracies: dict[str, Accuracies]
) -> dict[str, float]:
    """The learning curve's row for the current epoch, after its last update."""
    recipe, iterations = context.job.recipe, context.sampler.iterations
    row: dict[str, float] = {
        "epoch": progress.epoch + 1,
        "lr": learning_rate(recipe, progress.epoch, iterations - 1, iterations),
        "budget": epsilon_fraction(recipe, progress.epoch),
        "perturbed": float(perturbs_weights(recipe, progress.epoch)),
        "loss": progress.loss_sum / max(progress.images, 1),
    }
    for name, measured in accuracies.items():
        row |= {f"{name}_clean": measured.clean, f"{name}_pgd": measured.pgd}
    if "train" in accuracies and "val" in accuracies:
        row["robust_gap"] = accuracies["train"].pgd - accuracies["val"].pgd
    row["images_per_second"] = progress.images / max(progress.seconds, 1e-9)
    row["seconds"] = progress.seconds
    return row
