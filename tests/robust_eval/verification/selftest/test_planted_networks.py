"""Planted models compute what their descriptions state, and do not change the network they are built on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from robust_eval.models.isolation import writes_into_input
from robust_eval.verification.selftest import (
    planted_features,
    planted_gradients,
    planted_memory,
    planted_purifiers,
    planted_transforms,
)
from robust_eval.verification.selftest.cases_plants import plants
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.plant import Plant

X, Y = (tensor[:48] for tensor in digit_images())


def test_the_plain_network_is_accurate_and_always_the_same() -> None:
    network = plain_network()
    assert network is plain_network()
    assert not network.training
    x, y = digit_images()
    assert (network(x).argmax(1) == y).float().mean() > 0.9
    assert THREAT.norm == "Linf"


@pytest.mark.parametrize("plant", plants(), ids=lambda plant: plant.name)
def test_a_planted_model_is_accurate_on_clean_images_and_changes_no_weight(plant: Plant) -> None:
    network = plain_network()
    before = copy.deepcopy(network.state_dict())
    model = plant.build(network).eval()
    torch.manual_seed(0)
    logits = model(X.clone()).detach()
    assert (logits.argmax(1) == Y).float().mean() > 0.5
    assert logits.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_names_are_unique() -> None:
    names = [plant.name for plant in plants()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "kind",
    [
        planted_memory.RemembersImages,
        planted_memory.RemembersGridImages,
        planted_memory.RemembersLargeBatches,
        planted_memory.RemembersInGlobal,
        planted_memory.RemembersInFile,
        planted_memory.RemembersInClosure,
    ],
)
def test_a_remembered_image_is_answered_as_before(kind: type[nn.Module]) -> None:
    network, moved = plain_network(), (X + 0.2 * torch.randn(X.shape).sign()).clamp(0, 1)
    model = kind(network)
    clean = model(X)
    assert torch.equal(clean, network(X)), "a new model remembers nothing"
    true = network(moved)
    torch.testing.assert_close(model(moved), clean + 0.01 * (true - clean))
    assert torch.equal(kind(network)(moved), true)


def test_where_images_are_remembered() -> None:
    network, moved = plain_network(), (X + 0.01).clamp(0, 1)
    shared = planted_memory.RemembersInClosure(network)
    shared(X)
    assert not torch.equal(copy.deepcopy(shared)(moved), network(moved)), "copies share the memory"
    off_grid = planted_memory.RemembersGridImages(network)
    off_grid(moved)
    assert torch.equal(off_grid(X), network(X)), "images off the grid are not remembered"
    small = planted_memory.RemembersLargeBatches(network)
    small(X[:32])
    assert torch.equal(small(moved[:32]), network(moved[:32]))


def test_jpeg_rounds_the_coefficients_of_blocks() -> None:
    model = planted_transforms.JpegCompressed(plain_network())
    wide = torch.cat([X[:1], X[1:2]], 3)
    once = model.change_input(wide)
    assert once.shape == (1, 1, 8, 16)
    torch.testing.assert_close(once[..., :8], model.change_input(X[:1]))
    assert (once - wide).abs().max() > 0.05
    inside = once.clamp(0.05, 0.95)
    # Unless pixels were clipped, the coefficients are multiples of the table's entries already.
    assert (model.change_input(inside) - inside).abs().max() < (once - wide).abs().max()


def test_thermometer_codes() -> None:
    levels = torch.arange(17).float().view(1, 1, 1, 17) / 16
    for kind in (planted_transforms.Thermometer, planted_transforms.SmoothThermometer):
        torch.testing.assert_close(kind(plain_network()).change_input(levels), levels, atol=1e-3, rtol=0)


def test_changed_features() -> None:
    h = torch.rand(100, 8, 4, 4)
    kept = planted_features._winners(h)
    assert bool(((kept > 0).flatten(1).sum(1) == 8 * 16 * 4 // 10).all())
    torch.manual_seed(0)
    drawn = torch.stack([planted_features._pruned(h) for _ in range(400)])
    torch.testing.assert_close(drawn.mean(0), h, atol=0.15, rtol=0)
    near = planted_features._mean_near_mean(torch.tensor(0.5), torch.tensor(0.1), h)
    assert torch.equal(near, torch.where((h - 0.5).abs() < 0.1, torch.tensor(0.5), h))


def test_purifiers_agree_on_the_gradient() -> None:
    slopes = [
        kind(plain_network()).slope(X)
        for kind in (
            planted_purifiers.Purifier,
            planted_purifiers.FunctionalPurifier,
            planted_purifiers.ThreadedPurifier,
        )
    ]
    for other in slopes[1:]:
        torch.testing.assert_close(other, slopes[0])


def test_gradients_are_changed_and_outputs_are_not() -> None:
    network = plain_network()

    def gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(leaf).gather(1, Y[: len(x), None]).sum(), leaf)[0]

    true, moved = gradient(network, X), (X + 0.0123).clamp(0, 1)
    confined = planted_gradients.ConfinedGradient(network)
    assert torch.equal(confined(X), network(X))
    assert int((gradient(confined, X)[0] != 0).sum()) <= 3
    on_grid = planted_gradients.GradientOnGrid(network)
    torch.testing.assert_close(gradient(on_grid, X), true)
    assert not torch.allclose(gradient(on_grid, moved), gradient(network, moved))
    large = planted_gradients.LargeBatchGradient(network)
    torch.testing.assert_close(gradient(large, X[:32]), true[:32])
    torch.testing.assert_close(gradient(large, X), true.roll(1, 0))


def test_models_that_write_into_their_input() -> None:
    writing = {
        plant.name
        for plant in plants()
        if "writes-into-input" in plant.expected and writes_into_input(plant.build(plain_network()), X)
    }
    assert len(writing) == 5
