"""A model that begins to deceive after the probes and before the first attack is found after the attacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from robust_eval import evaluate
from robust_eval.evaluation.checks import answers
from robust_eval.evaluation.in_memory import make_job
from robust_eval.evaluation.session import Session
from robust_eval.results import flags
from robust_eval.verification.selftest.base_networks import ModifiedNetwork
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.planted_gradients import RolledGradient, with_gradient
from robust_eval.verification.selftest.planted_models import DetachedInput
from robust_eval.verification.selftest.planted_outputs import called_by_attack


class Waking(ModifiedNetwork):
    """Honest until an attack calls it or a copy of it; from then on it deceives every caller."""

    awake: ClassVar[bool] = False

    def wake(self) -> bool:
        Waking.awake |= called_by_attack()
        return Waking.awake


class DampedOffGrid(Waking):
    """Logits of images that are not on the 8-bit grid lie close together, as near a remembered image."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        off = ((255 * x - (255 * x).round()).abs().flatten(1).amax(1) > 1e-3)[:, None]
        return torch.where(off, 0.25 * logits, logits) if self.wake() else logits


class TurnedGradient(Waking):
    """The right logits with the gradient of a shifted image."""

    def change_input(self, x: Tensor) -> Tensor:
        return with_gradient(x, lambda gradient: gradient.roll(4, 2)) if self.wake() else x


@pytest.fixture(autouse=True)
def asleep() -> Iterator[None]:
    Waking.awake = False
    yield
    Waking.awake = False


@pytest.mark.parametrize("model", [DampedOffGrid, TurnedGradient])
def test_a_model_that_wakes_during_the_run_is_flagged(model: type[Waking]) -> None:
    x, y = (tensor[:60] for tensor in digit_images())
    found = evaluate(model(plain_network()).eval(), x, y, THREAT, "fgsm,pgd-20")
    assert "changed-during-run" in {flag.id for flag in found.flags}
    assert Waking.awake


def test_gradients_are_compared_with_finite_differences_after_the_attacks() -> None:
    """Of a model that began to return other gradients before the session did."""
    x, y = (tensor[:60] for tensor in digit_images())
    for model, lies in ((plain_network(), False), (RolledGradient(plain_network()), True)):
        cosine = Session(make_job(model, x, y, THREAT, "fgsm"))._cosine()
        raised = {flag.id for flag in flags.from_changes(0.0, 0.0, slopes=cosine)}
        assert raised == ({"changed-during-run"} if lies else set())


def test_an_honest_network_gives_the_same_answers() -> None:
    x, y = (tensor[:20] for tensor in digit_images())
    first, second = (answers.ask(plain_network(), x, y, THREAT) for _ in range(2))
    assert answers.change(first, second) == 0
    assert answers.cosine(first, second) == pytest.approx(1)


def test_a_model_without_gradients_has_none_before_and_after() -> None:
    x, y = (tensor[:20] for tensor in digit_images())
    none = answers.ask(DetachedInput(plain_network()), x, y, THREAT)
    some = answers.ask(plain_network(), x, y, THREAT)
    assert answers.cosine(none, none) == 1
    assert answers.cosine(none, some) == 0
