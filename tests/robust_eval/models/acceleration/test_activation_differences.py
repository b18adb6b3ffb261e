"""Small steps pass through a network as changes: the same answers as asking there, in bfloat16."""

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
from robust_eval.models.acceleration.attack_model import AttackCopy, Engine, query_steps
from robust_eval.models.acceleration.small_steps import StepEvaluator
from robust_eval.models.acceleration.tuning import Tuning

CPU = torch.device("cpu")
STEP = 1e-3


class Odd(nn.Module):
    """What networks do beside layers: functions, methods, sizes, sums of two branches, constants."""

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


def odd() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Odd().eval().requires_grad_(False), torch.rand(3, 3, 8, 8)


def known(arch: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = with_batchnorm_statistics(
        architectures.build(arch, classes=10, channels=3, image_size=(32, 32))
    )
    for weight in network.parameters():
        if not weight.any():  # the last layer of some networks begins with 0: the same answer everywhere
            nn.init.normal_(weight, std=0.1)
    return network.requires_grad_(False), torch.rand(3, 3, 32, 32)


def steps(x_NCHW: Tensor, count: int, seed: int = 1) -> Tensor:
    """Signs, (N, S, C, H, W)."""
    signs = torch.randint(
        0, 2, (len(x_NCHW), count, *x_NCHW.shape[1:]), generator=torch.Generator().manual_seed(seed)
    )
    return (2 * signs - 1) * STEP


def slopes(logits_NSK: Tensor, at_NK: Tensor) -> Tensor:
    return (logits_NSK.double() - at_NK.double()[:, None]) / STEP


def error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("arch", ["odd", "digits-cnn", "small-cnn", "preact-resnet-18", "wrn-10-1"])
def test_the_logits_are_those_of_the_steps(arch: str) -> None:
    network, x = odd() if arch == "odd" else known(arch)
    near, note = activation_differences.step_network(network, x)
    assert near is not None, note
    assert "off by" in note
    d = steps(x, 4)
    exact = network.double()
    truth = slopes(query_steps(exact, x.double(), d.double()), exact(x.double()))
    network.float()
    found = slopes(near(x, d.flatten(0, 1)).unflatten(0, d.shape[:2]), network(x))
    assert error(found, truth) < 0.03
    low = network.to(torch.bfloat16)
    blunt = slopes(query_steps(low, x.bfloat16(), d.bfloat16()), low(x.bfloat16()))
    assert error(blunt, truth) > 0.3, "plain bfloat16 loses the steps: the test can fail"


def test_a_large_step_is_exact_too() -> None:
    """Nothing is linearised: where a unit switches on or off, it switches."""
    network, x = odd()
    near, _ = activation_differences.step_network(network, x)
    assert near is not None
    d = 200 * steps(x, 4)
    truth = slopes(query_steps(network, x, d), network(x))
    found = slopes(near(x, d.flatten(0, 1)).unflatten(0, d.shape[:2]), network(x))
    assert error(found, truth) < 0.03


class Overwriting(nn.Module):
    """As most public networks: activations in place."""

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


def test_values_that_the_network_overwrites_are_kept() -> None:
    torch.manual_seed(0)
    network, x = Overwriting().eval().requires_grad_(False), torch.rand(3, 3, 8, 8)
    near, note = activation_differences.step_network(network, x)
    assert near is not None, note
    assert network.unit.inplace, "the network itself is left as it is"
    d = steps(x, 4)
    truth = slopes(query_steps(network, x, d), network(x))
    assert error(slopes(near(x, d.flatten(0, 1)).unflatten(0, d.shape[:2]), network(x)), truth) < 0.03


class Deciding(nn.Module):
    """Its code looks at values: no graph can be read."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] if x.sum() > 0 else -x.flatten(1)[:, :2]


class Steep(nn.Module):
    """Between its layers a change is multiplied by its own size: what is rounded grows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(48, 48), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.two(torch.sin(1e5 * self.one(x.flatten(1))))
        return logits


@pytest.mark.parametrize(
    ("network", "reason"), [(Deciding(), "does not allow bfloat16"), (Steep(), "would be off by")]
)
def test_what_cannot_be_read_is_left_alone(network: nn.Module, reason: str) -> None:
    torch.manual_seed(0)
    near, note = activation_differences.step_network(
        network.eval().requires_grad_(False), torch.rand(4, 3, 4, 4)
    )
    assert near is None
    assert note.startswith("SPSA in float32")
    assert reason in note


def test_a_network_that_answers_alike_everywhere_is_left_alone() -> None:
    """Its changes are 0, and nothing can be said of their error."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    nn.init.zeros_(network[1].weight)
    assert (
        activation_differences.step_network(network.requires_grad_(False), torch.rand(2, 3, 4, 4))[0] is None
    )


@pytest.mark.parametrize("rows", [1, 3, 8, 20, 100])
@pytest.mark.parametrize("images", [1, 3])
def test_steps_are_cut_into_calls_of_one_shape(rows: int, images: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    called: set[tuple[int, int]] = set()

    def call(x_NCHW: Tensor, changes: Tensor) -> Tensor:
        called.add((len(x_NCHW), len(changes)))
        answers: Tensor = network(x_NCHW.repeat_interleave(len(changes) // len(x_NCHW), 0) + changes)
        return answers

    x = torch.rand(images, 3, 4, 4)
    d = steps(x, 8)
    torch.testing.assert_close(StepEvaluator(call, rows)(x, d), query_steps(network, x, d))
    assert len(called) == 1, "compiled code serves one shape"
    assert next(iter(called))[1] <= max(rows, 1)


def test_the_bill_counts_steps_and_not_padding() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).requires_grad_(False)
    x = torch.rand(2, 3, 4, 4)
    near, _ = activation_differences.step_network(network, x)
    assert near is not None
    quick = AttackCopy(network, None, step_evaluator=StepEvaluator(near, 16))
    plain = AttackCopy(network, None, forward=Engine(network))
    for search in (quick, plain):
        assert search.logits_at_steps(x, steps(x, 7)).shape == (2, 7, 5)
        assert search.forwards == 14


def test_without_memory_for_it_steps_are_asked_like_images() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).requires_grad_(False)
    x = torch.rand(2, 3, 4, 4)

    def greedy(_x: Tensor, _changes: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    search = AttackCopy(network, None, step_evaluator=StepEvaluator(greedy, 16))
    torch.testing.assert_close(search.logits_at_steps(x, steps(x, 7)), query_steps(network, x, steps(x, 7)))
    assert search.step_evaluator is None
    assert search.forwards == 14


def test_the_estimate_is_the_same_estimate() -> None:
    """Against float32 it moves by a hundredth of what 128 directions leave open."""
    network, x = known("small-cnn")
    y = network(x).argmax(1)
    near, _ = activation_differences.step_network(network, x)
    assert near is not None
    search = AttackCopy(network, None, step_evaluator=StepEvaluator(near, 64))

    def draw(seed: int) -> _spsa.Draw:
        return lambda start, stop: steps(x, 128, seed)[start:stop].sign().float()

    def estimate(ask: _spsa.Near, seed: int) -> Tensor:
        return _spsa.estimate(ask, x, y, draw(seed), pairs=128, delta=STEP, rows=512)

    plain = estimate(lambda at, d: query_steps(network, at, d), 1)
    assert error(estimate(search.near, 1), plain) < 0.02
    assert error(estimate(search.near, 2), plain) > 1


class Rates:
    """Images a second by (rows, compiled) and steps a second, in place of a clock."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, images: dict[tuple[int, bool], float], near: float
    ) -> None:
        monkeypatch.setattr(tuning, "_rate", lambda way, _x, rows, _g: images.get((rows, way.compiled), 1.0))
        monkeypatch.setattr(tuning, "_near_rate", lambda way, _x: near if way.near_rows else 0.0)

    def found(self, *, compile: bool) -> Tuning:
        """16 values an image: 8192 rows are usual. A tuning stands for the copy that it makes."""
        build = cast(tuning.Build, lambda way: way)
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
def test_differences_must_win_clearly(
    monkeypatch: pytest.MonkeyPatch, plain: float, quick: float, near: float, expected: Tuning
) -> None:
    rates = Rates(monkeypatch, {(16384, False): plain, (16384, True): quick}, near)
    assert rates.found(compile=True) == expected
    assert rates.found(compile=False) == Tuning(16384, 16384), "eagerly they would not"


def test_the_rows_of_a_call_divide_the_samples() -> None:
    assert [tuning.steps_per_call(rows) for rows in (83, 167, 334, 668)] == [64, 128, 256, 512]


@pytest.mark.slow
@pytest.mark.skipif(bool(compilation.unavailable_reason(CPU)), reason=compilation.unavailable_reason(CPU))
def test_compiled_steps_find_what_float32_finds() -> None:
    """Adam divides by the slope's size: where it is nearly 0, rounding may turn a pixel round."""
    network, x = known("digits-cnn")
    y = network(x).argmax(1)
    params = attacks.parse("spsa", {"iterations": 3, "samples": 32})

    def found(way: Tuning, seed: int) -> Tensor:
        search = frozen_copy.make_attack_copy(network, sample=x, tuning=way)
        threat = parse_threat("Linf", "0.1")
        adv = attacks.family("spsa").search(search, x, y, threat, params, classes=10, seed=seed)
        assert search.forwards == 3 * 33 * 3
        assert any("changes in bfloat16" in note for note in search.notes) == bool(way.near_rows)
        return adv

    plain = found(Tuning(16, 16), 3)
    quick = found(Tuning(16, 16, near_rows=16), 3)
    other = found(Tuning(16, 16), 4)
    assert 0 < ((quick - plain).abs() > 0.002).float().mean() < 0.01
    assert ((other - plain).abs() > 0.002).float().mean() > 0.3
