"""FGSM and PGD return exactly the images that plain ART returns."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from support.torch_operations import Operations
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.attacks import _art, fgsm, pgd
from robust_eval.core.seeds import seed_everything
from robust_eval.core.threat import NORMS, Norm, ThreatModel, parse_threat
from robust_eval.models.acceleration.frozen_copy import make_attack_copy


class Net(nn.Module):
    """A network without a Sequential at the top, which plain ART would unroll."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


def problem(classes: int = 5) -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(3)
    model = Net(classes).eval().requires_grad_(False)
    x = torch.rand(9, 1, 8, 8).mul(1.4).sub(0.2).clamp(0, 1)
    return model, x, model(x).argmax(1)


def plain_art(model: nn.Module, loss: nn.Module, classes: int = 5) -> PyTorchClassifier:
    return PyTorchClassifier(
        model, loss=loss, input_shape=(1, 8, 8), nb_classes=classes, clip_values=(0, 1), device_type="cpu"
    )


def art_norm(norm: Norm) -> float:
    return np.inf if norm == "Linf" else 2


# Both sides use the sum: the mean differs in the last bit of an L2 step.
THREATS = [parse_threat("Linf", "8/255"), parse_threat("L2", "128/255"), parse_threat("L2", "1.7")]


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("classes", [2, 5])
def test_fgsm_equals_plain_art(threat: ThreatModel, classes: int) -> None:
    model, x, y = problem(classes)
    plain = FastGradientMethod(
        plain_art(model, nn.CrossEntropyLoss(reduction="sum"), classes),
        norm=art_norm(threat.norm),
        eps=threat.radius,
        eps_step=threat.radius,
    )
    expected = plain.generate(x.numpy(), np.eye(classes, dtype=np.float32)[y.numpy()])
    adv = fgsm.search(model, x, y, threat, fgsm.Params(), classes=classes, seed=0)
    assert np.array_equal(adv.numpy(), expected)


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_pgd_equals_plain_art(threat: ThreatModel, loss: _art.Loss) -> None:
    model, x, y = problem()
    module = nn.CrossEntropyLoss(reduction="sum") if loss == "cross-entropy" else _art.Margin()
    plain = ProjectedGradientDescent(
        plain_art(model, module),
        norm=art_norm(threat.norm),
        eps=threat.radius,
        eps_step=threat.radius / 4,
        max_iter=20,
        num_random_init=1,
        batch_size=9,
        verbose=False,
    )
    params = pgd.Params(steps=20, step_linf=Fraction(1, 4), step_l2=Fraction(1, 4))
    seed_everything(11)
    expected = plain.generate(x.numpy(), y.numpy())
    adv = _art.pgd(model, x, y, threat, params, loss=loss, classes=5, seed=11)
    assert np.array_equal(adv.numpy(), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_equals_plain_art(norm: Norm) -> None:
    torch.manual_seed(0)
    delta = torch.randn(50, 3, 4, 4) * 0.05
    delta[0], delta[1, 0, 0, 0] = 0, 8 / 255
    expected = _art.ProjectedGradientDescentPyTorch._projection(delta, 8 / 255, art_norm(norm))
    assert torch.equal(_art._PGD._projection(delta, 8 / 255, art_norm(norm)), expected)


def test_default_step_sizes_are_those_of_wu_et_al() -> None:
    params = attacks.parse("pgd", {})
    assert params.step_linf * Fraction(8, 255) == Fraction(2, 255)
    assert params.step_l2 * Fraction(128, 255) == Fraction(15, 255)


def test_pgd_starts_at_a_random_point_of_the_ball() -> None:
    """With one tiny step the result is the start."""
    model, x, y = problem()
    threat = parse_threat("Linf", "0.1")
    one = attacks.parse("pgd", {"steps": 1, "step_linf": "0.001"})
    start = pgd.search(model, x, y, threat, one, classes=5, seed=0) - x
    inner = start[(x > 0.1) & (x < 0.9)]
    assert inner.abs().max() > 0.09
    assert 0.04 < inner.abs().mean() < 0.06, "uniform in the ball"


def test_the_seed_covers_the_generator_of_numpy() -> None:
    model, x, y = problem()
    threat, params = parse_threat("Linf", "0.1"), pgd.Params(steps=3)
    first = pgd.search(model, x, y, threat, params, classes=5, seed=5)
    np.random.seed(999)
    assert torch.equal(pgd.search(model, x, y, threat, params, classes=5, seed=5), first)
    assert not torch.equal(pgd.search(model, x, y, threat, params, classes=5, seed=6), first)


def test_art_does_not_change_the_network() -> None:
    """A Sequential is not unrolled (its hooks run), and its mode is not changed."""
    model, x, y = problem()
    outer = nn.Sequential(model)
    calls: list[int] = []
    outer.register_forward_hook(lambda *_: calls.append(1))
    outer.train()
    model.requires_grad_(False)
    pgd.search(outer, x, y, parse_threat("Linf", "0.1"), pgd.Params(steps=3), classes=5, seed=0)
    assert len(calls) == 3, "three steps, and no prediction for a log message"
    assert outer.training


def test_the_attack_copy_computes_no_parameter_gradients() -> None:
    model, x, y = problem()
    copy, seen = make_attack_copy(model.requires_grad_(True), sample=x), Operations()
    with seen:
        pgd.search(copy, x, y, parse_threat("Linf", "0.1"), pgd.Params(steps=3), classes=5, seed=0)
    assert seen.names.count("convolution_backward") == 3
    assert seen.weight_gradients == 0


def test_the_margin_excludes_the_label_and_is_not_clamped() -> None:
    logits = torch.tensor([[-5.0, -1.0, -3.0], [2.0, 9.0, 1.0]], requires_grad=True)
    loss = _art.Margin()(logits, torch.eye(3)[torch.tensor([1, 1])])
    assert loss.item() == (-3 - -1) + (2 - 9)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.tolist() == [[0, -1, 1], [1, -1, 0]]


def test_the_margin_works_with_saturated_logits() -> None:
    model, x, y = problem()

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * model(x)

    cw = attacks.family("cw-linf")
    params = attacks.parse("cw-linf", {"steps": 20})
    threat = parse_threat("Linf", "0.05")
    plain = cw.search(model, x, y, threat, params, classes=5, seed=0)
    scaled = cw.search(Scaled(), x, y, threat, params, classes=5, seed=0)
    assert torch.equal(plain, scaled)
