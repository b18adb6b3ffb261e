"""Learning rate and epsilon schedules against values computed from the papers' settings."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from defenses.recipes import schedules
from defenses.recipes.choices import Choices
from defenses.recipes.resolve import resolve
from defenses.recipes.sections import EpsilonSchedule, Schedule

PIECEWISE = {
    "kind": "piecewise",
    "clock": "iteration",
    "milestones": ["1/2", "3/4"],
    "factor": 0.1,
    "peak": "2/5",
    "final": 0.0,
    "periods": [],
}
ITERATIONS = 391


def schedule(**changes: Any) -> Schedule:
    return Schedule.model_validate(PIECEWISE | changes)


def rate(config: Schedule, epoch: int, iteration: int, highest: float = 0.1, epochs: int = 200) -> float:
    t = schedules.epochs_elapsed(config, epoch, iteration, ITERATIONS)
    return schedules.learning_rate(config, highest, epochs, t)


@pytest.mark.parametrize(
    ("epoch", "iteration", "expected"),
    [
        (0, 0, 0.1),
        (99, ITERATIONS - 2, 0.1),
        # t = epoch + (i+1)/iterations: the last update of epoch 99 already runs at the reduced rate.
        (99, ITERATIONS - 1, 0.01),
        (100, 0, 0.01),
        (149, ITERATIONS - 2, 0.01),
        (149, ITERATIONS - 1, 0.001),
        (199, ITERATIONS - 1, 0.001),
    ],
)
def test_piecewise(epoch: int, iteration: int, expected: float) -> None:
    assert rate(schedule(), epoch, iteration) == pytest.approx(expected)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.1), (98, 0.1), (99, 0.01), (148, 0.01), (149, 0.001)])
def test_trades_counts_epochs_from_1(epoch: int, expected: float) -> None:
    """The authors' code drops at 1-based epochs 100 and 150, for the whole epoch."""
    config = resolve("trades", Choices()).recipe.schedule
    assert rate(config, epoch, 0) == pytest.approx(expected)
    assert rate(config, epoch, ITERATIONS - 1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("t", "expected"), [(0, 0.1), (50, 0.0853553), (100, 0.05), (120, 0.0345492), (200, 0)]
)
def test_cosine(t: float, expected: float) -> None:
    """0.5 lr (1 + cos(pi t / 200)); 0.0345 at epoch 120 is where the paper's gap opens."""
    assert schedules.learning_rate(schedule(kind="cosine"), 0.1, 200, t) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("t", "expected"), [(0, 0), (40, 0.1), (80, 0.2), (140, 0.1), (175, 0.0416667), (200, 0)]
)
def test_cyclic(t: float, expected: float) -> None:
    """0 to 0.2 at epoch 80, back to 0 at 200; 0.0417 at epoch 175."""
    assert schedules.learning_rate(schedule(kind="cyclic"), 0.2, 200, t) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.1), (100, 0.05), (199, 6.168e-06)])
def test_rst_is_cosine_per_epoch(epoch: int, expected: float) -> None:
    """0.05 (1 + cos(pi (epoch-1) / 200)) for 1-based epochs."""
    config = resolve("rst", Choices()).recipe.schedule
    assert rate(config, epoch, 17) == pytest.approx(expected, rel=1e-3)


def test_fine_tuning_ends_at_the_final_rate() -> None:
    recipe = resolve("pretraining", Choices()).recipe
    last = rate(recipe.schedule, 49, ITERATIONS - 1, recipe.optimiser.lr, 50)
    assert last == pytest.approx(1e-6)


def test_the_schedule_restarts_in_each_period() -> None:
    config = schedule(kind="cosine", clock="epoch", periods=["1/2", "3/4"])
    rates = {t: schedules.learning_rate(config, 0.1, 200, t) for t in (0, 50, 99, 100, 125, 150, 175)}
    assert rates == pytest.approx(
        {0: 0.1, 50: 0.05, 99: 2.467e-5, 100: 0.1, 125: 0.05, 150: 0.1, 175: 0.05}, rel=1e-3
    )
    ends = [e + 1 for e in range(200) if schedules.ends_period(config.periods, 200, e)]
    assert ends == [100, 150, 200]


@pytest.mark.parametrize("epochs", [4, 5, 7, 10])
def test_short_runs_have_one_end_per_period(epochs: int) -> None:
    parts = (Fraction(1, 2), Fraction(3, 4))
    ends = [e for e in range(epochs) if schedules.ends_period(parts, epochs, e)]
    assert len(ends) == 3
    numbers = [schedules.period(parts, epochs, e)[0] for e in ends]
    assert numbers == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "start", "peak", "expected"),
    [
        # Cosine from 0 toward twice epsilon, capped: full at the middle of a period of 100 epochs.
        ("cosine", 0, 2, {0: 0, 25: 0.2928932, 50: 1, 75: 1, 99: 1, 100: 0, 125: 1}),
        ("linear", "1/10", 1, {0: 0.1, 50: 0.55, 100: 0.1, 125: 0.55}),
        ("constant", 0, 1, {0: 1, 77: 1}),
    ],
)
def test_epsilon_schedule(kind: str, start: object, peak: object, expected: dict[int, float]) -> None:
    config = EpsilonSchedule.model_validate({"kind": kind, "start": start, "peak": peak})
    periods = (Fraction(1, 2), Fraction(3, 4))
    found = {epoch: schedules.epsilon_fraction(config, periods, 200, epoch) for epoch in expected}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("recipe", "data", "expected"),
    [
        ("at-awp", "cifar10", 0),
        ("at-awp", "svhn", 5),
        ("trades-awp", "cifar10", 9),
        ("mart-awp", "cifar10", 9),
    ],
)
def test_warm_ups(recipe: str, data: str, expected: int) -> None:
    """Epochs without perturbation: TRADES-AWP starts in the 10th, SVHN's AT-AWP in the 6th."""
    config = resolve(recipe, Choices(data=data)).recipe
    assert schedules.warmup_epochs(config.perturbation.warmup, config.training.epochs) == expected
