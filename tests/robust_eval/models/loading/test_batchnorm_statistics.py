"""The statistics that BatchNorm layers remember, and what they tell about a network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robust_eval.models.loading.batchnorm_statistics import (
    LayerStatistics,
    VariantComparison,
    compare,
    has_statistics,
    measure,
    measure_first,
)


def network(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), activation, nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32)]
    return nn.Sequential(*layers)


def fitted(model: nn.Module, x: Tensor) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model.eval()


IMAGES = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_the_images_that_were_remembered_do_not_deviate() -> None:
    layers = measure(fitted(network(nn.ReLU()), IMAGES), IMAGES)
    assert [layer.name for layer in layers] == ["1", "4"]
    assert max(layer.mismatch for layer in layers) < 1e-6


def test_a_difference_in_one_layer_is_not_carried_into_the_next() -> None:
    """Inputs that are twice as large deviate in the first layer, which standardises them."""
    first, second = measure(fitted(network(nn.ReLU()), IMAGES), 2 * IMAGES)
    assert first.mismatch > 0.1
    assert second.mismatch < 1e-4


def test_the_model_is_not_changed() -> None:
    model = fitted(network(nn.ReLU()), IMAGES)
    before, logits = copy.deepcopy(model.state_dict()), model(IMAGES)
    measure(model, IMAGES)
    measure(model, IMAGES, lambda _: False)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(model(IMAGES), logits)
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_the_pass_ends_when_no_more_layers_are_wanted() -> None:
    assert [layer.name for layer in measure(network(nn.ReLU()).eval(), IMAGES, lambda _: False)] == ["1"]


def test_the_first_layer_alone_is_measured_in_slices() -> None:
    images = torch.rand(150, 3, 12, 12, generator=torch.Generator().manual_seed(2)).square()
    model = fitted(network(nn.ReLU()), IMAGES)
    alone = measure_first(model, images)
    assert alone is not None
    assert alone.name == "1"
    assert torch.allclose(alone.deviation, measure(model, images)[0].deviation, atol=1e-4)
    assert measure_first(nn.Flatten(), images) is None
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_few_images_are_enough_for_the_step_between_two_activations() -> None:
    true, plain = fitted(network(nn.GELU()), IMAGES), network(nn.ReLU())
    plain.load_state_dict(true.state_dict())
    plain.eval()
    found = compare(measure(plain, IMAGES), true, IMAGES[:16], measure(plain, IMAGES[:16]))
    assert abs(found.share - 1) < 0.1


def test_the_comparison_names_the_function_that_was_remembered() -> None:
    true = fitted(network(nn.GELU()), IMAGES)
    plain = network(nn.ReLU())
    plain.load_state_dict(true.state_dict())
    plain.eval()
    found = compare(measure(plain, IMAGES), true, IMAGES)
    assert abs(found.share - 1) < 1e-3
    assert found.gain > 0
    assert abs(compare(measure(true, IMAGES), plain, IMAGES).share) < 1e-3
    assert compare(measure(plain, IMAGES), plain, IMAGES).channels == 0, "they do not differ"


def test_channels_that_were_constant_in_training_are_left_out() -> None:
    model = fitted(network(nn.ReLU()), IMAGES)
    norm = model.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var[:4] = 0
    assert measure(model, IMAGES)[0].deviation.shape == (2, 12)


def test_single_channels_do_not_decide() -> None:
    deviation = torch.zeros(2, 100, dtype=torch.float64)
    assert LayerStatistics("1", deviation).mismatch == 0
    assert VariantComparison().share == 0


def test_networks_without_statistics() -> None:
    assert has_statistics(network(nn.ReLU()))
    assert not has_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)))
    assert measure(nn.Sequential(nn.Conv2d(3, 4, 1)), IMAGES) == []
