"""One epoch: its updates, then its row of the learning curve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from defenses.recipes import schedules
from defenses.training import optimiser
from defenses.training.accuracy import Accuracies, measure_accuracies
from defenses.training.augmentation import augment, mixup
from defenses.training.forward_passes import ForwardPasses
from defenses.training.signals import UntrainableError
from defenses.training.state import Run
from robust_eval.core.seeds import derive
from robust_eval.models.normalisation import Normalised

if TYPE_CHECKING:
    from defenses.training.display import TrainingDisplay


def budget(run: Run) -> float:
    recipe = run.job.recipe
    return schedules.epsilon_fraction(
        recipe.budget, recipe.schedule.periods, recipe.training.epochs, run.progress.epoch
    )


def perturbs(run: Run) -> bool:
    """Whether weight perturbation is on in the epoch under way."""
    config = run.job.recipe.perturbation
    warmup = schedules.warmup_epochs(config.warmup, run.job.recipe.training.epochs)
    return config.kind != "none" and config.gamma > 0 and run.progress.epoch >= warmup


def rate(run: Run, iteration: int) -> float:
    recipe = run.job.recipe
    t = schedules.epochs_elapsed(recipe.schedule, run.progress.epoch, iteration, run.mix.iterations)
    return schedules.learning_rate(recipe.schedule, recipe.optimiser.lr, recipe.training.epochs, t)


def train_epoch(run: Run, display: TrainingDisplay, safe_point: Callable[[], None]) -> None:
    """The epoch's updates from where the run stands; ``safe_point`` is called after each and may raise."""
    progress, mix, runtime = run.progress, run.mix, run.runtime
    fraction, perturb = budget(run), perturbs(run)
    batches = mix.batches(progress.epoch, progress.iteration, runtime.rank, runtime.world)
    for x_NCHW, y_N in batches:
        started = time.perf_counter()
        i = progress.iteration
        # Each update has a seed of its own: a resumed run draws what an uninterrupted one draws.
        torch.manual_seed(
            derive(run.job.options.seed, "update", str(progress.epoch), str(i), str(runtime.rank))
        )
        x_NCHW, y = _augmented(run, x_NCHW, y_N)
        optimiser.set_learning_rate(run.step.optimiser, rate(run, i))
        size = mix.size(i)
        run.step.share = len(y_N) * runtime.world / size
        terms = run.step(x_NCHW, y, epsilon_fraction=fraction, perturb=perturb)
        if runtime.reduce is not None:
            runtime.reduce([terms.loss])
        # The one place where an update waits for the device.
        right = (terms.logits_NK.argmax(1) == y_N).float().mean()
        loss, accuracy = torch.stack([terms.loss, right]).tolist()
        if not math.isfinite(loss):
            raise _not_finite(run, loss)
        if run.average is not None:
            run.average.update(run.network)
        progress.iteration += 1
        progress.loss_sum += loss * size
        progress.images += size
        progress.seconds += time.perf_counter() - started
        display.update(run, loss, accuracy)
        safe_point()


def _augmented(run: Run, x_NCHW: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    config = run.job.recipe.augment
    x_NCHW, y = augment(x_NCHW, config), y_N
    if config.mixup:
        x_NCHW, y = mixup(x_NCHW, y_N, config.mixup, run.job.train.classes)
    return x_NCHW.contiguous(memory_format=torch.channels_last), y


def _not_finite(run: Run, loss: float) -> UntrainableError:
    progress, folder = run.progress, run.job.folder
    kept = f"last.pt holds epoch {progress.epoch}" if progress.epoch else "nothing was saved yet"
    tips = "a lower --set optimiser.lr"
    if run.job.recipe.perturbation.kind != "none":
        tips += ", a smaller perturbation.gamma or a longer perturbation.warmup"
    if run.job.options.precision != "32":
        tips += ", or --precision 32"
    look = "Look at the epochs before it in curve.csv, and try" if progress.epoch else "Try"
    return UntrainableError(
        f"The loss became {loss} in epoch {progress.epoch + 1}, update {progress.iteration + 1} of "
        f"{run.mix.iterations}; {kept} ({folder}). {look} {tips}."
    )


def due(run: Run) -> bool:
    """Whether the epoch just trained is to be measured: every so many, and the last."""
    recipe, done = run.job.recipe, run.progress.epoch + 1
    return done % recipe.selection.every == 0 or done == recipe.training.epochs


def measured(run: Run, check: Callable[[], None]) -> dict[str, Accuracies]:
    if not due(run):
        return {}
    network = run.judged
    model = run.model if network is run.network else _wrapped(run, network)

    forward = ForwardPasses(model, run.runtime.autocast).frozen()
    alone = run.runtime.world == 1
    return {
        name: measure_accuracies(
            model, found, run.job.recipe, forward, check if alone else _no_check, run.runtime
        )
        for name, found in run.pools.items()
    }


def _no_check() -> None:
    """Of several processes none may leave a measurement early: the others would wait for its counts."""


def _wrapped(run: Run, network: nn.Module) -> nn.Module:
    return Normalised(network, run.job.normalisation).to(run.runtime.device)


def row(run: Run, found: dict[str, Accuracies]) -> dict[str, float]:
    """The learning curve's row for the epoch under way, whose updates are all done."""
    progress = run.progress
    values: dict[str, float] = {
        "epoch": progress.epoch + 1,
        "lr": rate(run, run.mix.iterations - 1),
        "budget": budget(run),
        "perturbed": float(perturbs(run)),
        "loss": progress.loss_sum / max(progress.images, 1),
    }
    for name, result in found.items():
        values |= {f"{name}_clean": result.clean, f"{name}_pgd": result.pgd}
    if "train" in found and "val" in found:
        values["robust_gap"] = found["train"].pgd - found["val"].pgd
    values["images_per_second"] = progress.images / max(progress.seconds, 1e-9)
    values["seconds"] = progress.seconds
    return values
