"""Models that answer otherwise inside an attack than outside are found, whatever they change and when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robust_eval.core.types import CallDifference, UnitResult
from robust_eval.evaluation.checks import repeated_calls
from robust_eval.evaluation.checks.second_judgement import collect
from robust_eval.evaluation.in_memory import make_job
from robust_eval.evaluation.planning.units import stage_units
from robust_eval.evaluation.session import Session
from robust_eval.models.acceleration.kept_calls import KeptCall, KeptCalls
from robust_eval.results import flags
from robust_eval.verification.selftest.base_networks import ModifiedNetwork
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.planted_gradients import WrongFromThirdCall, with_gradient
from robust_eval.verification.selftest.planted_outputs import called_by_attack


class WrongGradientInAttacks(ModifiedNetwork):
    """Right logits everywhere; the gradient of the next image if an attack asks for it."""

    def change_input(self, x: Tensor) -> Tensor:
        return with_gradient(x, lambda gradient: gradient.roll(1, 0)) if called_by_attack() else x


class WrongGradientLater(ModifiedNetwork):
    """The gradient of the next image once a copy has computed 15 gradients."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.calls = 0

    def change_input(self, x: Tensor) -> Tensor:
        self.calls += x.requires_grad
        return x if self.calls < 15 else with_gradient(x, lambda gradient: gradient.roll(1, 0))


class OtherLogitsInAttacks(ModifiedNetwork):
    """Negated logits if an attack asks."""

    def change_output(self, z: Tensor) -> Tensor:
        return -z if called_by_attack() else z


class RightForTwoLossesOnly(ModifiedNetwork):
    """Negated gradients of losses that weigh three or four logits: the difference of logits ratio (DLR)."""

    def change_output(self, z: Tensor) -> Tensor:
        def changed(weights: Tensor) -> Tensor:
            used = (weights != 0).sum(1, keepdim=True)
            return weights.where((used < 3) | (used > 4), -weights)

        return with_gradient(z, changed)


def units(model: nn.Module, suite: str, n: int = 40) -> list[UnitResult]:
    """Every unit of a suite on ``n`` digits."""
    x, y = (tensor[:n] for tensor in digit_images())
    job = make_job(model, x, y, THREAT, suite)
    worker = Session(job).worker
    everything = range(len(x))
    planned = [
        unit
        for column in job.request.suite.columns
        for stage in range(len(column.attacks))
        for unit in stage_units(job.request, column, stage, everything)
    ]
    return [worker.run(unit) for unit in planned]


def flag_ids(model: nn.Module, suite: str, n: int = 40) -> set[str]:
    results = units(model, suite, n)
    found = collect(results, len(results), 0)
    return {flag.id for flag in flags.from_changes(0.0, 0.0, 0, found.difference)}


@pytest.mark.parametrize(
    ("suite", "n"),
    [("fgsm", 40), ("pgd-20", 40), ("apgd-ce-t", 4), pytest.param("aa", 8, marks=pytest.mark.slow)],
)
def test_an_honest_network_answers_the_same(suite: str, n: int) -> None:
    results = units(plain_network(), suite, n)
    difference = repeated_calls.largest(result.difference for result in results)
    assert difference.logits < 1e-5
    assert difference.cosine > 0.9999
    assert difference.slopes > 0.99


@pytest.mark.parametrize(
    "suite", ["fgsm", "pgd-20", *(pytest.param(name, marks=pytest.mark.slow) for name in ("apgd-ce-t", "aa"))]
)
def test_gradients_of_attacks_alone(suite: str) -> None:
    n = 40 if suite in ("fgsm", "pgd-20") else 8
    assert flag_ids(WrongGradientInAttacks(plain_network()), suite, n) == {"changed-during-run"}


@pytest.mark.parametrize("suite", ["fgsm", "aa"])
def test_logits_of_attacks_alone(suite: str) -> None:
    assert flag_ids(OtherLogitsInAttacks(plain_network()), suite) == {"changed-during-run"}


def test_a_gradient_that_changes_within_an_attack() -> None:
    model = WrongGradientLater(plain_network())
    assert flag_ids(model, "fgsm") == set(), "The gradient has not changed yet."
    assert flag_ids(model, "pgd-20") == {"changed-during-run"}


def test_a_gradient_that_changes_after_two_calls_near_an_image() -> None:
    assert flag_ids(WrongFromThirdCall(plain_network()), "pgd-20") == {"changed-during-run"}


def test_a_gradient_that_is_wrong_for_one_loss_of_an_attack() -> None:
    assert flag_ids(RightForTwoLossesOnly(plain_network()), "apgd-ce-t", 8) == {"misleading-gradients"}
    assert flag_ids(RightForTwoLossesOnly(plain_network()), "pgd-20") == set()


def test_all_later_calls_are_kept_with_equal_probability() -> None:
    kept: Counter[float] = Counter()
    for seed in range(400):
        calls = KeptCalls(seed)
        for number in range(5):
            calls.offer(torch.full((1, 1), float(number)), torch.zeros(1, 2), differentiable=True)
        first, later = calls
        assert first.x_NCHW == 0
        kept[float(later.x_NCHW)] += 1
    assert set(kept) == {1.0, 2.0, 3.0, 4.0}
    assert min(kept.values()) > 60, "100 are expected of each."


def test_gradients_of_attacks_agree_with_finite_differences() -> None:
    weights = torch.tensor([[2e-20, -2e-20]])
    x, slopes = torch.rand(1, 1, 2, 2) / 2 + 0.2, torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 2, 2)

    def model(x: Tensor) -> Tensor:
        total = (x.double() * slopes).flatten(1).sum(1)
        return torch.stack([total, -total], 1)

    right = KeptCall(x, model(x), weights, 4e-20 * slopes)
    wrong = replace(right, gradient_NCHW=-4e-20 * slopes)
    assert repeated_calls.compare(right, model, slopes=True).slopes > 0.999
    assert repeated_calls.compare(wrong, model, slopes=True).slopes < -0.999
    assert repeated_calls.compare(wrong, model).slopes == 1


def test_calls_without_gradients() -> None:
    first = KeptCall(torch.rand(3, 1, 2, 2), torch.rand(3, 4), torch.rand(3, 4), torch.zeros(3, 1, 2, 2))
    assert repeated_calls.compare(first, lambda _x: first.logits_NK) == CallDifference(0.0, 1.0)
    some = replace(first, gradient_NCHW=torch.rand(3, 1, 2, 2))
    assert repeated_calls.compare(some, lambda _x: first.logits_NK).cosine == 0.0


def test_lack_of_memory_is_no_difference() -> None:
    def failing(_x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    first = KeptCall(torch.rand(3, 1, 2, 2), torch.rand(3, 4))
    assert repeated_calls.compare(first, failing) == CallDifference()


def test_the_largest_difference_counts() -> None:
    found = [CallDifference(0.1, 1.0), CallDifference(0.0, -0.5)]
    assert repeated_calls.largest(found) == CallDifference(0.1, -0.5)
    assert repeated_calls.largest([]) == CallDifference()
