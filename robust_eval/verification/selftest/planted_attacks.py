"""Attacks that are broken on purpose, around the evaluation's own: the judge must not be fooled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import FLOAT32, AttackSpec
from robust_eval.evaluation.attack_copy import AttackCopyConfig
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.worker import Worker


@dataclass(frozen=True)
class Call:
    """What an attack was asked, and how to run the real one."""

    search: Callable[[AttackSpec, Tensor, Tensor, ThreatModel, int], Tensor]
    attack: AttackSpec
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int

    def run(self) -> Tensor:
        return self.search(self.attack, self.x, self.y, self.threat, self.seed)


Twist = Callable[[Call], Tensor]


@dataclass(frozen=True)
class TwistedJob(Job):
    """A job whose attacks are not what they should be."""

    twist: Twist = Call.run

    def worker(self, search: AttackCopyConfig | None = None) -> Worker:
        request = self.request
        return _Twisted(
            self.twist, self.model, self.x_NCHW, self.y_N, request.threat, request.checkpoint.classes
        )


class _Twisted(Worker):
    def __init__(
        self, twist: Twist, model: torch.nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, classes: int
    ) -> None:
        super().__init__(model, x, y, threat, classes)
        self.twist = twist

    def search(
        self,
        attack: AttackSpec,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        seed: int,
        precision: str = FLOAT32,
    ) -> Tensor:
        return self.twist(Call(super().search, attack, x_NCHW, y_N, threat, seed))


def too_far(call: Call) -> Tensor:
    """1% beyond epsilon."""
    return (call.x + 1.01 * (call.run() - call.x)).clamp(0, 1)


def out_of_the_box(call: Call) -> Tensor:
    """Within epsilon, but darker than black."""
    return call.x - call.threat.radius


def half_precision(call: Call) -> Tensor:
    """Images that went through bfloat16: up to 6% beyond epsilon."""
    return call.run().bfloat16().float()


def not_a_number(call: Call) -> Tensor:
    return call.run() * float("nan")


def returns_clean(call: Call) -> Tensor:
    return call.x.clone()


def small_epsilon(call: Call) -> Tensor:
    """Never beyond a quarter of the smallest budget here, whatever was asked."""
    capped = min(call.threat.eps, Fraction(1, 40))
    return replace(call, threat=ThreatModel(call.threat.norm, capped)).run()


def wrong_labels(call: Call) -> Tensor:
    """PGD is told the label of the next class; other attacks are left alone."""
    return replace(call, y=(call.y + 1) % 10).run() if call.attack.family == "pgd" else call.run()


def tiny_steps(call: Call) -> Tensor:
    """PGD with steps of a thousandth of epsilon."""
    return _with_params(call, step_linf="1/1000") if call.attack.family == "pgd" else call.run()


def tenth_of_the_steps(call: Call) -> Tensor:
    return _with_params(call, steps=max(1, call.attack.params["steps"] // 10))


def twentieth_of_the_step(call: Call) -> Tensor:
    return _with_params(call, step_linf=str(Fraction(call.attack.params["step_linf"]) / 20))


def gives_up(call: Call) -> Tensor:
    """Forgets about half of the images, others from every start."""
    kept = torch.rand(len(call.x), generator=torch.Generator().manual_seed(call.seed)) < 0.5
    return torch.where(kept.to(call.x.device).view(-1, 1, 1, 1), call.run(), call.x)


def _with_params(call: Call, **params: object) -> Tensor:
    return replace(call, attack=replace(call.attack, params={**call.attack.params, **params})).run()
