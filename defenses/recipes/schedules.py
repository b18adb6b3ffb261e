"""Learning rate and epsilon as pure functions of time. Time is measured in epochs, from 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from defenses.recipes.sections import EpsilonSchedule, Schedule


def epochs_elapsed(schedule: Schedule, epoch: int, iteration: int, iterations: int) -> float:
    """The time of an update in epochs, by ``schedule.clock``.

    ``iteration`` (Rice et al.; AT of the AWP paper): the time after the update, so that the last update of
    an epoch has the time of the next epoch. ``epoch`` (RST): the 0-based epoch. ``epoch-from-1`` (TRADES,
    MART): the 1-based epoch.
    """
    if schedule.clock == "iteration":
        return epoch + (iteration + 1) / iterations
    return float(epoch + (schedule.clock == "epoch-from-1"))


def period(periods: Sequence[Fraction], epochs: int, t: float) -> tuple[int, float, float]:
    """Index of the period that contains t, its start (inclusive) and its end (exclusive), in epochs."""
    edges = [0.0, *(float(part * epochs) for part in periods), float(epochs)]
    index = sum(t >= edge for edge in edges[1:-1])
    return index, edges[index], edges[index + 1]


def ends_period(periods: Sequence[Fraction], epochs: int, epoch: int) -> bool:
    """Whether the 0-based epoch is the last one of its period."""
    return epoch == epochs - 1 or any(math.ceil(part * epochs) == epoch + 1 for part in periods)


def learning_rate(schedule: Schedule, highest: float, epochs: int, t: float) -> float:
    """Learning rate at time t (AWP paper, sections 3 and 5.1, Appendix C.1)."""
    _, start, end = period(schedule.periods, epochs, t)
    r = (t - start) / (end - start)
    if schedule.kind == "piecewise":
        # Compared in epochs: 0.5 * 200 is exact, but (t - start) / (end - start) may be rounded.
        drops = sum(t >= start + float(m) * (end - start) for m in schedule.milestones)
        return highest * schedule.factor**drops
    if schedule.kind == "cosine":
        return schedule.final + 0.5 * (highest - schedule.final) * (1 + math.cos(math.pi * min(r, 1.0)))
    if schedule.kind == "cyclic":
        peak = float(schedule.peak)
        return highest * max(0.0, r / peak if r < peak else (1 - r) / (1 - peak))
    return highest


def epsilon_fraction(config: EpsilonSchedule, periods: Sequence[Fraction], epochs: int, epoch: int) -> float:
    """The fraction of epsilon, in [0, 1], that a 0-based epoch trains with (Liu et al. 2020)."""
    if config.kind == "constant":
        return 1.0
    _, start, end = period(periods, epochs, epoch)
    r = (epoch - start) / (end - start)
    rise = r if config.kind == "linear" else 0.5 * (1 - math.cos(math.pi * r))
    low, high = float(config.start), float(config.peak)
    return min(1.0, low + (high - low) * rise)


def warmup_epochs(warmup: Fraction, epochs: int) -> int:
    """Number of epochs before weight perturbation starts, rounded to the nearest integer."""
    return round(warmup * epochs)
