"""Estimate the cost of a run: passes are counted, a few batches timed, and the time extrapolated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import FLOAT32, Cost
from robust_eval.evaluation.planning.units import split_into_batches
from robust_eval.models.acceleration import timing
from robust_eval.models.acceleration.frozen_copy import make_attack_copy


@dataclass(frozen=True)
class Speed:
    """Seconds per image of a forward pass, and of a backward pass without its forward pass."""

    forward: float
    backward: float

    def seconds(self, cost: Cost, images: int) -> float:
        """Time of ``cost`` passes on each of ``images`` images."""
        return images * (cost.forwards * self.forward + cost.backwards * self.backward)


@dataclass(frozen=True)
class Estimate:
    """Upper bound for one attack: no example is broken before the last attack."""

    attack: str
    column: str
    units: int
    cost: Cost
    seconds: float


def measure_speed(model: nn.Module, x_NCHW: Tensor, *, repeats: int = 3, precision: str = FLOAT32) -> Speed:
    """Time forward and backward passes on one batch; the fastest of a few repeats."""
    attack_copy = make_attack_copy(model, sample=x_NCHW[:8], precision=precision)

    def backward() -> None:
        x = x_NCHW.clone().requires_grad_()
        torch.autograd.grad(attack_copy(x).sum(), x)

    @torch.no_grad()
    def forward() -> None:
        attack_copy(x_NCHW)

    one_way, both = (
        timing.fastest_call(work, x_NCHW.device, calls=(repeats, repeats)) / len(x_NCHW)
        for work in (forward, backward)
    )
    return Speed(one_way, max(both - one_way, 0.0))


def estimates(request: Request, speeds: Mapping[str, Speed]) -> list[Estimate]:
    """One estimate per attack, in the order of the suite; ``speeds`` by precision."""
    n, classes = request.data.n, request.checkpoint.classes
    clean = Cost(1, 0)
    rows = [Estimate(CLEAN, CLEAN, _units(request, clean), clean, speeds[FLOAT32].seconds(clean, n))]
    for column in request.suite.columns:
        for attack in column.attacks:
            cost = attacks.cost(attack, classes)
            speed = speeds[attacks.precision(attack, request.precision)]
            units = _units(request, cost)
            rows.append(Estimate(attack.id, column.id, units, cost, speed.seconds(cost, n)))
    return rows


def _units(request: Request, cost: Cost) -> int:
    """Number of units of an attack on all examples."""
    return len(split_into_batches(request, range(request.data.n), cost.forwards + cost.backwards))
