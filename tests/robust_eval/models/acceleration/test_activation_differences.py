"""Logits at small steps, computed from changes in bfloat16, compared with direct evaluation."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from support.known_models import with_batchnorm_statistics
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.attacks import _spsa
from robust_eval.core.threat import parse_threat
from robust_eval.models import architectures
from robust_eval.models.acceleration import (
    activation_differences,
    compilation,
    frozen_copy,
    tuning,
)
from robust_eval.models.acceleration.attack_model import AttackCopy, query_steps
from robust_eval.models.acceleration.engine import Engine
from robust_eval.models.acceleration.small_steps import StepEvaluator
from robust_eval.models.acceleration.tuning import Tuning

CPU = torch.device("cpu")
STEP = 1e-3


class Mixed(nn.Module):
    """Operations beside layers: functions, methods, sizes, sums of two branches, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6 * 16, 5)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first((x - cast(Tensor, self.mean)) / 0.25)
        x = x + self.scale * torch.relu(self.norm(self.second(torch.sigmoid(x))))
        x = nn.functional.avg_pool2d(torch.cat([x[:, :3], x[:, 3:].abs()], dim=1), 2)
        logits: Tensor = self.head(x.view(x.size(0), -1))
        return logits


def mixed() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Mixed().eval().requires_grad_(False), torch.rand(3, 3, 8, 8)


def known(arch: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    narrow = {"width": 16} if arch == "preact-resnet-18" else {}
    network = with_batchnorm_statistics(
        architectures.build(arch, classes=10, channels=3, image_size=(32, 32), **narrow)
    )
    for weight in network.parameters():
        if not weight.any():  # the last layer of some networks starts at 0
            nn.init.normal_(weight, std=0.1)
    return network.requires_grad_(False), torch.rand(3, 3, 32, 32)


def steps(x_NCHW: Tensor, count: int, seed: int = 1) -> Tensor:
    """Random steps of +-STEP, (N, S, C, H, W)."""
    signs = torch.randint(
        0, 2, (len(x_NCHW), count, *x_NCHW.shape[1:]), generator=torch.Generator().manual_seed(seed)
    )
    return (2 * signs - 1) * STEP


def derivatives(logits_NSK: Tensor, at_NK: Tensor) -> Tensor:
    return (logits_NSK.double() - at_NK.double()[:, None]) / STEP


def error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("arch", ["mixed", "digits-cnn", "small-cnn", "preact-resnet-18", "wrn-10-1"])
def test_the_logits_equal_those_at_the_steps(arch: str) -> None:
    network, x = mixed() if arch == "mixed" else known(arch)
    step_network, note = activation_differences.step_network(network, x)
    assert step_network is not None, note
    assert "off by" in note
    d = steps(x, 4)
    exact = network.double()
    truth = derivatives(query_steps(exact, x.double(), d.double()), exact(x.double()))
    network.float()
    found = derivatives(step_network(x, d.flatten(0, 1)).unflatten(0, d.shape[:2]), network(x))
    assert error(found, truth) < 0.03
    low = network.to(torch.bfloat16)
    rounded = derivatives(query_steps(low, x.bfloat16(), d.bfloat16()), low(x.bfloat16()))
    assert error(rounded, truth) > 0.3, "plain bfloat16 loses the steps"


def test_large_steps_are_exact_too() -> None:
    """The network is not linearised: activations may change their sign."""
    network, x = mixed()
    step_network, _ = activation_differences.step_network(network, x)
    assert step_network is not None
    d = 200 * steps(x, 4)
    truth = derivatives(query_steps(network, x, d), network(x))
    found = derivatives(step_network(x, d.flatten(0, 1)).unflatten(0, d.shape[:2]), network(x))
    assert error(found, truth) < 0.03


class Overwriting(nn.Module):
    """In-place activations, as in most public networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.unit, self.head = nn.ReLU(inplace=True), nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.unit(self.first(x)))
        y = nn.functional.relu(self.second(x), inplace=True)
        y += x
        y *= 2
        logits: Tensor = self.head(y.sub_(0.1).relu_().flatten(1))
        return logits


def test_in_place_operations_do_not_change_the_result() -> None:
    torch.manual_seed(0)
    network, x = Overwriting().eval().requires_grad_(False), torch.rand(3, 3, 8, 8)
    step_network, note = activation_differences.step_network(network, x)
    assert step_network is not None, note
    assert network.unit.inplace, "the network is not modified"
    d = steps(x, 4)
    truth = derivatives(query_steps(network, x, d), network(x))
    assert (
        error(derivatives(step_network(x, d.flatten(0, 1)).unflatten(0, d.shape[:2]), network(x)), truth)
        < 0.03
    )


class Branching(nn.Module):
    """Its code branches on tensor values, so it cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] if x.sum() > 0 else -x.flatten(1)[:, :2]


class Steep(nn.Module):
    """Amplifies changes between its layers, and the rounding errors with them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(48, 48), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.two(torch.sin(1e5 * self.one(x.flatten(1))))
        return logits


@pytest.mark.parametrize(
    ("network", "reason"), [(Branching(), "does not allow bfloat16"), (Steep(), "would be off by")]
)
def test_a_network_that_cannot_be_converted_stays_in_float32(network: nn.Module, reason: str) -> None:
    torch.manual_seed(0)
    step_network, note = activation_differences.step_network(
        network.eval().requires_grad_(False), torch.rand(4, 3, 4, 4)
    )
    assert step_network is None
    assert note.startswith("SPSA in float32")
    assert reason in note


def test_a_constant_network_is_not_converted() -> None:
    """Its changes are 0, so their relative error is undefined."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    nn.init.zeros_(network[1].weight)
    assert (
        activation_differences.step_network(network.requires_grad_(False), torch.rand(2, 3, 4, 4))[0] is None
    )


@pytest.mark.parametrize("rows", [1, 3, 8, 20, 100])
@pytest.mark.parametrize("images", [1, 3])
def test_steps_are_split_into_calls_of_one_shape(rows: int, images: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    called: set[tuple[int, int]] = set()

    def call(x_NCHW: Tensor, changes: Tensor) -> Tensor:
        called.add((len(x_NCHW), len(changes)))
        logits: Tensor = network(x_NCHW.repeat_interleave(len(changes) // len(x_NCHW), 0) + changes)
        return logits

    x = torch.rand(images, 3, 4, 4)
    d = steps(x, 8)
    torch.testing.assert_close(StepEvaluator(call, rows)(x, d), query_steps(network, x, d))
    assert len(called) == 1, "one shape, so that code is compiled once"
    assert next(iter(called))[1] <= max(rows, 1)


def test_steps_are_counted_without_padding() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).requires_grad_(False)
    x = torch.rand(2, 3, 4, 4)
    step_network, _ = activation_differences.step_network(network, x)
    assert step_network is not None
    quick = AttackCopy(network, None, step_evaluator=StepEvaluator(step_network, 16))
    plain = AttackCopy(network, None, forward=Engine(network))
    for search in (quick, plain):
        assert search.logits_at_steps(x, steps(x, 7)).shape == (2, 7, 5)
        assert search.forwards == 14


def test_without_memory_steps_are_queried_like_images() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).requires_grad_(False)
    x = torch.rand(2, 3, 4, 4)

    def greedy(_x: Tensor, _changes: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    search = AttackCopy(network, None, step_evaluator=StepEvaluator(greedy, 16))
    torch.testing.assert_close(search.logits_at_steps(x, steps(x, 7)), query_steps(network, x, steps(x, 7)))
    assert search.step_evaluator is None
    assert search.forwards == 14


def test_the_spsa_estimate_is_almost_unchanged() -> None:
    """The difference from float32 is small against that between two sets of 128 directions."""
    network, x = known("digits-cnn")
    y = network(x).argmax(1)
    step_network, _ = activation_differences.step_network(network, x)
    assert step_network is not None
    search = AttackCopy(network, None, step_evaluator=StepEvaluator(step_network, 64))

    def draw(seed: int) -> _spsa.Draw:
        return lambda start, stop: steps(x, 128, seed)[start:stop].sign().float()

    def estimate(step_logits: _spsa.StepLogits, seed: int) -> Tensor:
        return _spsa.estimate(step_logits, x, y, draw(seed), pairs=128, delta=STEP, rows=512)

    plain = estimate(lambda at, d: query_steps(network, at, d), 1)
    assert error(estimate(search.logits_at_steps, 1), plain) < 0.02
    assert error(estimate(search.logits_at_steps, 2), plain) > 1


class Rates:
    """Prescribed images per second by (rows, compiled), and steps per second."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, images: dict[tuple[int, bool], float], near: float
    ) -> None:
        monkeypatch.setattr(
            tuning, "_rate", lambda option, _x, rows, _g: images.get((rows, option.compiled), 1.0)
        )
        monkeypatch.setattr(tuning, "_step_rate", lambda option, _x: near if option.near_rows else 0.0)

    def found(self, *, compile: bool) -> Tuning:
        """The result for images of 16 values (8192 rows by default); tunings replace the copies."""
        build = cast(tuning.Build, lambda option: option)
        return tuning.measure_step_tuning(build, torch.rand(8, 1, 4, 4), compile=compile)


@pytest.mark.parametrize(
    ("plain", "quick", "near", "expected"),
    [
        (2.0, 1.9, 2.05, Tuning(16384, 16384)),
        (2.0, 3.0, 3.1, Tuning(16384, 16384, True)),
        (2.0, 3.0, 4.0, Tuning(16384, 16384, True, False, 16384)),
        (2.0, 1.9, 4.0, Tuning(16384, 16384, False, False, 16384)),
    ],
)
def test_step_networks_must_be_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, plain: float, quick: float, near: float, expected: Tuning
) -> None:
    rates = Rates(monkeypatch, {(16384, False): plain, (16384, True): quick}, near)
    assert rates.found(compile=True) == expected
    assert rates.found(compile=False) == Tuning(16384, 16384), "step networks are only used compiled"


def test_steps_per_call_are_a_power_of_two() -> None:
    assert [tuning.steps_per_call(rows) for rows in (83, 167, 334, 668)] == [64, 128, 256, 512]


@pytest.mark.slow
@pytest.mark.skipif(bool(compilation.unavailable_reason(CPU)), reason=compilation.unavailable_reason(CPU))
def test_spsa_with_compiled_steps_agrees_with_float32() -> None:
    """Adam normalises gradients: where one is almost 0, rounding may change the sign of a pixel's step."""
    network, x = known("digits-cnn")
    y = network(x).argmax(1)
    params = attacks.parse("spsa", {"iterations": 3, "samples": 32})

    def found(option: Tuning, seed: int) -> Tensor:
        search = frozen_copy.make_attack_copy(network, sample=x, tuning=option)
        threat = parse_threat("Linf", "0.1")
        adv = attacks.family("spsa").search(search, x, y, threat, params, classes=10, seed=seed)
        assert search.forwards == 3 * 33 * 3
        assert any("changes in bfloat16" in note for note in search.notes) == bool(option.near_rows)
        return adv

    plain = found(Tuning(16, 16), 3)
    quick = found(Tuning(16, 16, near_rows=16), 3)
    other = found(Tuning(16, 16), 4)
    assert 0 < ((quick - plain).abs() > 0.002).float().mean() < 0.01
    assert ((other - plain).abs() > 0.002).float().mean() > 0.3
