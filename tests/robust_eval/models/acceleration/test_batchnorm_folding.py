"""BatchNorm folding: the result is the same function, or the original model with a reason."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_eval.models import architectures
from robust_eval.models.acceleration.batchnorm_folding import TOLERANCE, fold_batchnorm
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.normalisation import NORMALISATIONS, Normalised


def with_statistics(network: nn.Module) -> nn.Module:
    """The network with random BatchNorm statistics, as after training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.2, 3)  # type: ignore[union-attr]
    return network.eval().requires_grad_(False)


def network(arch: str = "wrn-10-1") -> nn.Module:
    torch.manual_seed(1)
    return with_statistics(architectures.build(arch, classes=4, channels=3, image_size=(16, 16)))


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_layers_are_folded_and_the_function_is_unchanged() -> None:
    model, x = Normalised(network("resnet-18"), NORMALISATIONS["cifar10"]).eval(), torch.rand(3, 3, 16, 16)
    result, note = fold_batchnorm(model, x)
    assert batch_norms(model) == 20, "the original is not modified"
    assert note.startswith("20 of 20 BatchNorm layers folded")
    assert batch_norms(result) == 0
    expected = model(x)
    assert (result(x) - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_a_layer_after_an_addition_is_not_folded() -> None:
    model = network("wrn-10-1")
    result, note = fold_batchnorm(model, torch.rand(2, 3, 16, 16))
    assert 0 < batch_norms(result) < batch_norms(model)
    assert note.startswith(f"{batch_norms(model) - batch_norms(result)} of {batch_norms(model)} ")


def test_a_model_without_batchnorm_is_returned_unchanged() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert fold_batchnorm(model, torch.rand(1, 3, 8, 8)) == (model, "")


class Branching(nn.Module):
    """Its code branches on tensor values, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.body = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out if out.sum() > 0 else -out


class NoGradBody(Branching):
    """Tracing ignores its ``no_grad``: the folded copy would have gradients that the original lacks."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.body(x)
        return hidden + x.mean((1, 2, 3))[:, None]


def test_a_model_that_cannot_be_traced_is_not_folded() -> None:
    model = Branching()
    result, note = fold_batchnorm(model, torch.rand(2, 3, 8, 8))
    assert result is model
    assert note == "BatchNorm not folded: the graph does not allow it (TraceError)"


def test_a_model_whose_gradients_would_change_is_not_folded() -> None:
    model = NoGradBody()
    result, note = fold_batchnorm(model, torch.rand(2, 3, 8, 8))
    assert result is model
    assert note.startswith("BatchNorm not folded: logits or gradients would change by")


def test_the_attack_copy_has_a_note_on_folding() -> None:
    x = torch.rand(2, 3, 16, 16)
    assert "BatchNorm layers folded, largest difference" in make_attack_copy(network(), sample=x).notes[0]
    assert make_attack_copy(network()).notes == ()
