"""The choice between networks with the same tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from robust_eval.models import architectures
from robust_eval.models.architectures import Arguments, resnet
from robust_eval.models.loading.batchnorm_choice import FirstLayer, choose_variant
from robust_eval.models.loading.state_dict_diff import shapes_of
from robust_eval.models.normalisation import NONE


@pytest.mark.parametrize("true", [{}, {"stride_first": True}])
def test_the_convolution_with_the_stride_of_a_bottleneck_is_found(true: dict[str, Any]) -> None:
    """He et al. stride in the first convolution of a bottleneck, torchvision in the second."""
    x = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(0)).round()

    def build(arguments: Arguments) -> nn.Module:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"classes": 4, "channels": 3, "image_size": (16, 16), "width": 4}
        return architectures.build("resnet-50", **sizes, **arguments)

    network = build(true).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(x)
    state = network.state_dict()
    inferred = resnet.infer(shapes_of(state))
    assert inferred is not None
    assert {"stride_first": True} in inferred.variants

    def loaded(arguments: Arguments) -> nn.Module:
        other = build(arguments)
        other.load_state_dict(state)
        return other.eval()

    variants = [variant for variant in inferred.variants if "activation" not in variant]
    chosen = choose_variant(loaded, {}, variants, FirstLayer(NONE, "as they are", 0.0), x)
    assert chosen.arguments == true
    assert chosen.fits
    assert not chosen.untold
