"""Attacks with a planted defect, built on the evaluation's own attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from robust_eval.core.float_images import Images
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import FLOAT32, AttackSpec
from robust_eval.evaluation.attack_copy import AttackCopyConfig
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.worker import Worker


@dataclass(frozen=True)
class AttackCall:
    """The arguments of an attack, and the function that runs the original attack."""

    search: Callable[[AttackSpec, Tensor, Tensor, ThreatModel, int], Tensor]
    attack: AttackSpec
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int

    def run(self) -> Tensor:
        """The adversarial images of the original attack."""
        return self.search(self.attack, self.x, self.y, self.threat, self.seed)


Defect = Callable[[AttackCall], Tensor]
"""Replaces an attack: its call to adversarial images (N, C, H, W)."""


@dataclass(frozen=True)
class PlantedJob(Job):
    """A job whose attacks have a planted defect."""

    defect: Defect = AttackCall.run

    def worker(self, config: AttackCopyConfig | None = None) -> Worker:
        request = self.request
        return _PlantedWorker(
            self.defect, self.model, self.x_NCHW, self.y_N, request.threat, request.checkpoint.classes
        )


class _PlantedWorker(Worker):
    def __init__(
        self, defect: Defect, model: torch.nn.Module, x: Images, y: Tensor, threat: ThreatModel, classes: int
    ) -> None:
        super().__init__(model, x, y, threat, classes)
        self.defect = defect

    def search(
        self,
        attack: AttackSpec,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        seed: int,
        precision: str = FLOAT32,
    ) -> Tensor:
        return self.defect(AttackCall(super().search, attack, x_NCHW, y_N, threat, seed))


def beyond_epsilon(call: AttackCall) -> Tensor:
    """Perturbations 1% larger than epsilon."""
    return (call.x + 1.01 * (call.run() - call.x)).clamp(0, 1)


def outside_box(call: AttackCall) -> Tensor:
    """Perturbations within epsilon, but pixels below 0."""
    return call.x - call.threat.radius


def rounded_to_bfloat16(call: AttackCall) -> Tensor:
    """Images rounded to bfloat16: up to 6% beyond epsilon."""
    return call.run().bfloat16().float()


def nan_pixels(call: AttackCall) -> Tensor:
    """Images of NaN."""
    return call.run() * float("nan")


def returns_clean(call: AttackCall) -> Tensor:
    """The clean images."""
    return call.x.clone()


def smaller_epsilon(call: AttackCall) -> Tensor:
    """Clips to 1/40, a quarter of the smallest epsilon of the cases."""
    capped = min(call.threat.eps, Fraction(1, 40))
    return replace(call, threat=ThreatModel(call.threat.norm, capped)).run()


def wrong_labels(call: AttackCall) -> Tensor:
    """PGD receives the label of the next class; other attacks are unchanged."""
    return replace(call, y=(call.y + 1) % 10).run() if call.attack.family == "pgd" else call.run()


def tiny_steps(call: AttackCall) -> Tensor:
    """PGD with a step size of a thousandth of epsilon; other attacks are unchanged."""
    return _with_params(call, step_linf="1/1000") if call.attack.family == "pgd" else call.run()


def tenth_of_the_steps(call: AttackCall) -> Tensor:
    """A tenth of the number of steps."""
    return _with_params(call, steps=max(1, call.attack.params["steps"] // 10))


def twentieth_of_the_step(call: AttackCall) -> Tensor:
    """A twentieth of the step size."""
    return _with_params(call, step_linf=str(Fraction(call.attack.params["step_linf"]) / 20))


def skips_half(call: AttackCall) -> Tensor:
    """Returns about half of the images unattacked, chosen anew for each start."""
    attacked = torch.rand(len(call.x), generator=torch.Generator().manual_seed(call.seed)) < 0.5
    return torch.where(attacked.to(call.x.device).view(-1, 1, 1, 1), call.run(), call.x)


def _with_params(call: AttackCall, **params: object) -> Tensor:
    return replace(call, attack=replace(call.attack, params={**call.attack.params, **params})).run()
