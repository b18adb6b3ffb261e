"""Outputs that are never predicted are found; classes without images are no such outputs."""

from __future__ import annotations

from torch import Tensor, nn

from robust_eval import evaluate
from robust_eval.evaluation.checks.decoy_outputs import decoy_share
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.planted_outputs import OutputsWithoutClass


def share(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return decoy_share(model, x, y, THREAT, frozenset(y.tolist()), model(x[:1]).shape[1])


def test_outputs_without_a_class_are_found() -> None:
    x, y = (tensor[:32] for tensor in digit_images())
    assert share(OutputsWithoutClass(plain_network()).eval(), x, y) > 0.5


def test_classes_without_images_are_not_reported() -> None:
    x, y = digit_images()
    few = y < 4
    model = plain_network().eval()
    others = model(x[few]).scatter(1, y[few][:, None], float("-inf")).argmax(1)
    assert (others >= 4).float().mean() > 0.25, "The check has something to try."
    assert share(model, x[few][:32], y[few][:32]) == 0


def test_as_many_outputs_as_labels_are_not_tried() -> None:
    x, y = digit_images()

    def model(_images: Tensor) -> Tensor:
        raise AssertionError("The model is called.")

    assert decoy_share(model, x[:16], y[:16], THREAT, frozenset(range(10)), 10) == 0


def test_a_run_with_such_outputs_is_not_ranked() -> None:
    x, y = (tensor[:32] for tensor in digit_images())
    found = evaluate(OutputsWithoutClass(plain_network()), x, y, THREAT, "fgsm")
    assert "decoy-outputs" in {flag.id for flag in found.flags}
    assert not found.rankable
