"""Every model that lies is flagged for its lie, and the honest ones are not flagged at all."""

from __future__ import annotations

import pytest
import torch
from plants import PLANTS, Honest
from torch import Tensor, nn

from robust_eval import flags
from robust_eval.probes import margin, probe


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (32, 1, 8, 8), generator=torch.Generator().manual_seed(3)) / 255


def flagged(model: nn.Module, x: Tensor) -> set[str]:
    model.eval()
    y = Honest().eval()(x).argmax(1)
    return {flag.id for flag in flags.from_probe(probe(model, x, y))}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_every_plant_is_caught(plant: type[nn.Module], images: Tensor) -> None:
    found = flagged(plant(), images)
    assert PLANTS[plant] <= found
    # NaN logits have no gradient either; no other plant may set off more than it deserves.
    assert found == PLANTS[plant] or plant.__name__ == "NaNSometimes"


@pytest.mark.parametrize("normalise", [False, True])
def test_honest_networks_raise_nothing(normalise: bool, images: Tensor) -> None:
    assert flagged(Honest(normalise), images) == set()


def test_a_tenth_of_a_millionth_of_noise_is_no_lie(images: Tensor) -> None:
    class Tiny(Honest):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 1e-7 * torch.randn_like(x))

    assert flagged(Tiny(), images) == set()


def test_margin() -> None:
    z = torch.tensor([[3.0, 1.0, -5.0], [-1.0, -2.0, -3.0]])
    assert margin(z, torch.tensor([0, 1])).tolist() == [2.0, -1.0]


def test_every_flag_says_what_to_do() -> None:
    for name, rule in flags.RULES.items():
        assert rule.severity in (flags.BLOCKS, flags.WARNS), name
        assert rule.advice.endswith("."), name
        assert rule.threshold, name
