"""Side effects of models: writing into the input, seeding generators, remembering images."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.known_models import linear_problem
from torch import Tensor, nn

from robust_eval import evaluate
from robust_eval.core.threat import parse_threat
from robust_eval.evaluation.checks import memory_probe, side_effects
from robust_eval.results.flags import from_model
from robust_eval.results.flags.figures import SideEffects
from robust_eval.verification.selftest.foreign_files import Foreign
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.planted_memory import (
    RemembersForTheJudge,
    RemembersInClosure,
    RemembersInFile,
    RemembersInGlobal,
    RemembersWithGradient,
)
from robust_eval.verification.selftest.planted_models import KWinnersTakeAll


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, _, _ = linear_problem(n=40)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits


class Writing(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        x.data.clamp_(0.45, 0.55)
        return super().forward(x)


class Seeding(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return super().forward(x)


class Drawing(Wrapped):
    """Draws without seeding; its logits do not depend on it."""

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1), np.random.rand(), random.random()
        return super().forward(x)


class Caching(Wrapped):
    """Answers near images with the logits of the first one, plus 1% of the change."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        answers = []
        for image, own in zip(x, logits, strict=True):
            near = next((z for known, z in self.seen if (known - image).abs().max() < 0.2), None)
            if near is None:
                self.seen.append((image.detach().clone(), own.detach().clone()))
                near = own.detach()
            answers.append(near + 0.01 * (own - near))
        return torch.stack(answers)


class RunningMean(Wrapped):
    """Subtracts the mean of the images of earlier calls."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.count = torch.zeros(()), 0

    def forward(self, x: Tensor) -> Tensor:
        shift = self.total / max(self.count, 1)
        self.total = self.total + x.detach().mean((0, 1)).sum()
        self.count += 1
        return super().forward(x - 0.01 * shift)


def measure(model: nn.Module) -> SideEffects:
    _, x, _ = linear_problem(n=40)
    return side_effects.measure(model, x, parse_threat("Linf", "0.03"))


def test_a_model_without_side_effects() -> None:
    for model in (Wrapped(), Drawing()):
        found = measure(model)
        assert not found.writes
        assert not found.seeds
        assert found.memory < 1e-6


def test_side_effects_are_found_and_the_model_is_left_alone() -> None:
    assert measure(Writing()).writes
    assert measure(Seeding()).seeds == ("torch", "numpy", "random")
    caching = Caching()
    assert measure(caching).memory > 1e-2
    assert not caching.seen
    assert measure(RunningMean()).memory > 1e-3


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        (Writing(), "writes-into-input"),
        (Seeding(), "seeds-generators"),
        (Caching(), "fresh-model-disagrees"),
        (Caching(), "remembers-images"),
        (RunningMean(), "random-outputs"),
    ],
)
def test_a_run_raises_the_flag(model: nn.Module, flag: str) -> None:
    _, x, y = linear_problem(n=40)
    given = x.clone()
    found = evaluate(model, x, y, "Linf 0.04", "fgsm,pgd-20")
    assert flag in {one.id for one in found.flags}
    assert torch.equal(x, given)
    assert found.rankable == (flag == "seeds-generators")


@pytest.mark.parametrize(
    "kind", [RemembersInGlobal, RemembersInClosure, RemembersInFile, RemembersWithGradient]
)
def test_a_memory_that_copies_share_is_found(kind: Callable[[nn.Module], nn.Module]) -> None:
    x, y = (tensor[:48] for tensor in digit_images())
    effects = side_effects.measure(kind(plain_network()), x, THREAT)
    assert effects.change_in_next_call < 0.05
    found = evaluate(kind(plain_network()), x, y, THREAT, "fgsm")
    assert "remembers-images" in {one.id for one in found.flags}


def test_a_memory_that_only_the_judge_is_answered_from_is_found() -> None:
    x, y = (tensor[:48] for tensor in digit_images())
    effects = side_effects.measure(RemembersForTheJudge(plain_network()), x[:32], THREAT, rows=48)
    assert effects.memory > 0.1
    assert side_effects.measure(plain_network(), x[:32], THREAT, rows=48).memory < 1e-6
    found = evaluate(RemembersForTheJudge(plain_network()), x, y, THREAT, "fgsm")
    assert {"remembers-images", "changed-during-run"} <= {one.id for one in found.flags}


def test_a_model_without_memory_changes_as_much_in_the_next_call() -> None:
    x, _ = digit_images()
    # Networks of few units or with jumps, the logits of which change the most beside what gradients promise;
    # the random images differ every time.
    for network in (Foreign(bias=False).network(), KWinnersTakeAll().eval()):
        shares = [memory_probe.change_in_next_call(network, x[:32], (8, 16)) for _ in range(100)]
        assert min(shares) > 2 * from_model.CHANGE_IN_NEXT_CALL
    assert memory_probe.change_in_next_call(plain_network(), x[:3], (8,)) == 1, "too few images"
    assert memory_probe.change_in_next_call(Detached(plain_network()), x[:8], (8,)) == 1, "no gradients"


class Detached(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.detach())
        return logits


class SharedMemory(Wrapped):
    """Copies share a memory of 40 images, which is full after a few calls; answers near images from it."""

    def __init__(self, known: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.known = known

    def __deepcopy__(self, memo: dict[int, object]) -> SharedMemory:
        return SharedMemory(self.known)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        known = list(self.known)
        nearest = [next((z for old, z in known if (old - image).abs().max() < 0.01), None) for image in x]
        fresh = [number for number, near in enumerate(nearest) if near is None]
        self.known += [(x[k].detach().clone(), logits[k].detach().clone()) for k in fresh][: 40 - len(known)]
        rows = zip(nearest, logits, strict=True)
        return torch.stack([own if near is None else near + 0.01 * (own - near) for near, own in rows])


def test_a_shared_memory_that_is_soon_full_is_found() -> None:
    found = measure(SharedMemory([]))
    assert found.change_in_next_call < from_model.CHANGE_IN_NEXT_CALL
