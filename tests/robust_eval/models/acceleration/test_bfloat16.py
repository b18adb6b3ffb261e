"""The bfloat16 copy: close to the original, with float32 input and output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import BFLOAT16
from robust_eval.models import architectures
from robust_eval.models.acceleration.bfloat16 import to_bfloat16, unsupported_reason
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.normalisation import NORMALISATIONS, Normalised


def model() -> nn.Module:
    torch.manual_seed(0)
    network = architectures.build("small-cnn", classes=4, channels=1, image_size=(20, 20))
    # The last layer of this architecture starts at zero.
    [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1].reset_parameters()
    return Normalised(network, NORMALISATIONS["mnist"]).eval().requires_grad_(False)


def test_it_is_close_to_the_original_and_does_not_modify_it() -> None:
    original, x = model(), torch.rand(5, 1, 20, 20)
    before = original(x)
    copy = to_bfloat16(original, x)
    found = copy(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, before, rtol=0, atol=0.03 * float(before.abs().max() + 1e-3))
    assert not torch.equal(found, before)
    assert torch.equal(original(x), before)


def test_the_last_layer_and_the_normalisation_stay_float32() -> None:
    original, x = model(), torch.rand(2, 1, 20, 20)
    copy = to_bfloat16(original, x)
    layers = [m for m in copy.modules() if isinstance(m, nn.Linear)]
    assert [layer.weight.dtype for layer in layers] == [torch.bfloat16, torch.bfloat16, torch.float32]
    last = [m for m in original.modules() if isinstance(m, nn.Linear)][-1]
    assert torch.equal(layers[-1].weight, last.weight), "not rounded"
    assert isinstance(copy, Normalised)
    assert copy.mean.dtype == torch.float32


def test_input_gradients_are_float32() -> None:
    search = make_attack_copy(model(), sample=torch.rand(2, 1, 20, 20), precision=BFLOAT16)
    x = torch.rand(3, 1, 20, 20, requires_grad=True)
    (input_grad,) = torch.autograd.grad(search(x)[:, 0].sum(), x)
    assert input_grad.dtype == torch.float32
    assert input_grad.abs().max() > 0
    assert "searches in bfloat16, last layer in float32" in search.notes


class Strict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected float32")
        return x.flatten(1)


def test_a_model_without_bfloat16_is_refused() -> None:
    with pytest.raises(UserError, match=r"not run in bfloat16 \(expected float32\): use precision float32"):
        to_bfloat16(Strict(), torch.rand(1, 1, 4, 4))


class EarlyLinear(nn.Module):
    """The last linear layer is not the last layer: its float32 output would enter a bfloat16 layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.mix = nn.Conv2d(4, 4, 1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scores(self.mix(x)).flatten(1)
        return out


def test_everything_is_bfloat16_if_the_last_linear_layer_cannot_be_float32() -> None:
    copy = to_bfloat16(EarlyLinear().requires_grad_(False), torch.rand(2, 4, 8, 8))
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}


def test_a_processor_without_bfloat16_units_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert "no bfloat16 matrix units" in unsupported_reason(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert unsupported_reason(torch.device("cpu")) == ""
