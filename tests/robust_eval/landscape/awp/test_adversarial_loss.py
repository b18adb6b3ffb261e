"""The adversarial loss at displaced weights, compared with closed forms and the evaluation's attack."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from support import small_scans
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robust_eval import attacks
from robust_eval.core import seeds
from robust_eval.core.errors import UserError
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Architecture, CheckpointRef, Slice
from robust_eval.landscape.awp.adversarial_loss import AdversarialLoss
from robust_eval.landscape.awp.points import Displacement, ScanSetting, WeightPoint, weight_point
from robust_eval.landscape.awp.scan import adversarial_loss
from robust_eval.landscape.directions import (
    Directions,
    filter_normalised,
    perturbable_weights,
    random_directions,
    tensor_normalised,
)
from robust_eval.landscape.displaced_model import DisplacedModel
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.loading.state_dict_diff import shapes_of
from robust_eval.models.normalisation import NONE, Normalised
from robust_eval.verification.selftest.linear_models import linear_problem


def loss_of(
    network: nn.Module, x: Tensor, y: Tensor, eps: str, *, steps: int = 5, batch: int = 8, classes: int = 10
) -> AdversarialLoss:
    model = Normalised(network, NONE).eval()
    ref = CheckpointRef("net.pt", "ab" * 32, Architecture("net"), classes, NONE, "robust-eval")
    data = Slice("digits", "train", len(y), "cd" * 32, (), "stored")
    attack = attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps})
    threat = ThreatModel("Linf", Fraction(eps))
    setting = ScanSetting(data, threat, attack, batch, 0, "normal, seed 0")
    directions = random_directions(shapes_of(perturbable_weights(network)), 2, 0)
    return AdversarialLoss(model, ref, x, y, setting, directions)


def loss_on_digits(path: Path, **changes: Any) -> AdversarialLoss:
    scan = small_scans.scan(small_scans.write(path), **changes)
    return adversarial_loss(scan, scan.comparison.models[0])


def along(size: float, number: int = 0) -> WeightPoint:
    """The point at distance ``size`` along a random direction."""
    return weight_point(Displacement("filter", number, size))


class ConvBatchNorm(nn.Module):
    """A convolution followed by BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.fc = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, eps=1e-12), nn.Linear(3 * 36, 10)
        self.bn.running_mean = torch.randn(3)
        self.bn.running_var = torch.rand(3) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.bn(self.conv(x)).relu().flatten(1))
        return logits

    @torch.no_grad()
    def rescaled(self) -> ConvBatchNorm:
        """The same function: one filter, its bias and its running mean times 10, its variance times 100."""
        for part, factor in (
            (self.conv.weight, 10),
            (self.conv.bias, 10),
            (self.bn.running_mean, 10),
            (self.bn.running_var, 100),
        ):
            assert part is not None
            part[1] *= factor
        return self


def test_rescaling_a_filter_before_batchnorm_does_not_change_the_loss() -> None:
    x, y = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6)
    one, other = (
        loss_of(ConvBatchNorm().eval(), x, y, "0.1"),
        loss_of(ConvBatchNorm().rescaled().eval(), x, y, "0.1"),
    )
    for size in (-1.0, 0.0, 0.5):
        assert other.measure(along(size)).value == pytest.approx(one.measure(along(size)).value, rel=1e-4)
    # Normalised by tensor, the losses differ, so the assertion above is able to fail.
    size = 0.5
    by_tensor = [loss.measure(weight_point(Displacement("rwp", 0, size))).value for loss in (one, other)]
    assert by_tensor[0] != pytest.approx(by_tensor[1], rel=1e-2)


@pytest.mark.parametrize("size", [-0.7, 0.0, 0.4])
def test_a_linear_model_has_the_loss_of_the_closed_form(size: float) -> None:
    """Two classes, Linf: the worst x' reduces the margin by eps times the L1 norm of w_y - w_k."""
    model, x, y = linear_problem(n=20, classes=2)
    found = loss_of(model, x, y, "0.05", steps=10, classes=2)
    weight = model.fc.weight.detach()
    scaled = filter_normalised(found.directions.raw(0), {"fc.weight": weight})["fc.weight"]
    moved = weight + size * scaled
    logits = x.flatten(1) @ moved.T
    margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
    worst = margin - 0.05 * (moved[0] - moved[1]).abs().sum()
    measured = found.measure(along(size))
    assert measured.value == pytest.approx(float(torch.nn.functional.softplus(-worst).mean()), rel=1e-4)
    assert measured.accuracy == int((worst > 0).sum()) / len(y)


def test_the_loss_at_w_equals_that_of_the_evaluation(tmp_path: Path) -> None:
    """The evaluation's attack, with losses of the original network, batch by batch."""
    found = loss_on_digits(tmp_path / "net.pt")
    scan = small_scans.scan(tmp_path / "net.pt")
    model, setting = scan.comparison.models[0].model, scan.setting
    params = attacks.parse("pgd", setting.attack.params)
    losses, right = [], []
    for first in (0, 8):
        x, y = scan.comparison.x_NCHW[first : first + 8], scan.comparison.y_N[first : first + 8]
        seed = seeds.derive(setting.seed, "landscape", str(first))
        search = attacks.family("pgd").search
        adv = search(make_attack_copy(model), x, y, setting.threat, params, classes=10, seed=seed)
        with torch.no_grad():
            logits = model(adv)
        losses.append(cross_entropy(logits, y, reduction="none"))
        right.append(logits.argmax(1) == y)
    measured = found.measure(weight_point())
    assert measured.value == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    assert measured.accuracy == float(torch.cat(right).float().mean())
    assert measured.forwards == 12 * (1 + 3 + 1)
    assert measured.backwards == 12 * 3


def test_the_original_model_is_not_modified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_scans.write(tmp_path / "net.pt")
    scan = small_scans.scan(path)
    (compared,) = scan.comparison.models
    before = {name: value.clone() for name, value in compared.model.state_dict().items()}
    grads = [p.requires_grad for p in compared.model.parameters()]
    found = adversarial_loss(scan, compared)
    found.measure(weight_point(Displacement("awp", 0, 0.5)))
    found.measure(along(1.0))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(found, "_batch_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.measure(along(1.0))
    assert all(torch.equal(value, before[name]) for name, value in compared.model.state_dict().items())
    assert [p.requires_grad for p in compared.model.parameters()] == grads
    assert all(p.grad is None for p in compared.model.parameters())


def test_the_copy_returns_exactly_to_w(tmp_path: Path) -> None:
    (compared,) = small_scans.scan(small_scans.write(tmp_path / "net.pt")).comparison.models
    displaced = DisplacedModel(compared.model, "net", torch.rand(2, 1, 8, 8))
    direction = {name: torch.randn_like(weight) for name, weight in displaced.weights.items()}
    displaced.displace([(direction, 1e7)])
    current = displaced.displaced_weights()
    assert not all(torch.equal(value, current[name]) for name, value in displaced.weights.items())
    displaced.displace()
    current = displaced.displaced_weights()
    assert all(torch.equal(value, current[name]) for name, value in displaced.weights.items())


def test_a_point_does_not_depend_on_the_points_measured_before(tmp_path: Path) -> None:
    points = [
        weight_point(),
        along(0.5),
        along(0.5, 1),
        weight_point(Displacement("filter", 0, 1.0), images="at-w"),
    ]
    points += [
        weight_point(Displacement("awp", 0, 0.1)),
        weight_point(Displacement("filter", 0, -1.0), Displacement("filter", 1, 0.5)),
    ]
    one, other = loss_on_digits(tmp_path / "net.pt"), loss_on_digits(tmp_path / "net.pt")
    in_order = [one.measure(point).value for point in points]
    reversed_order = [other.measure(point).value for point in reversed(points)]
    assert in_order == reversed_order[::-1]


def test_images_made_once_underestimate_the_loss(tmp_path: Path) -> None:
    found = loss_on_digits(tmp_path / "net.pt", steps=10, options=small_scans.OPTIONS)
    for size in (-1.0, 1.0):
        anew = found.measure(along(size)).value
        fixed = found.measure(weight_point(Displacement("filter", 0, size), images="at-w")).value
        assert fixed < anew


def test_both_perturbations_have_the_norm_of_the_weights(tmp_path: Path) -> None:
    found = loss_on_digits(tmp_path / "net.pt")
    at_w = found._attack_at_w(0, found.x[:8], found.y[:8], "float32")
    random, _ = found._scaled_direction(Displacement("rwp", 1, 0.1))
    for direction in (random, found._awp_direction(at_w, found.y[:8])):
        for name, weight in found.displaced.weights.items():
            torch.testing.assert_close(direction[name].norm(), weight.norm())


def test_awp_increases_the_loss_at_the_rate_of_the_gradient(tmp_path: Path) -> None:
    """To first order the increase is gamma times the sum over layers of norm(w_l) norm(g_l)."""
    found = loss_on_digits(tmp_path / "net.pt", batch_size=12)
    x_adv = found._attack_at_w(0, found.x, found.y, "float32")
    gradient = found.displaced.weight_gradient(x_adv, found.y)
    expected = sum(float(g.norm() * found.displaced.weights[name].norm()) for name, g in gradient.items())
    gamma = 1e-4
    loss = [
        found.measure(weight_point(Displacement("awp", 0, size), images="at-w")).value
        for size in (gamma, 2 * gamma)
    ]
    at_w = found.measure(weight_point()).value
    assert (loss[0] - at_w) / gamma == pytest.approx(expected, rel=0.05)
    random = found.measure(weight_point(Displacement("rwp", 0, gamma), images="at-w")).value
    assert abs(random - at_w) < 0.5 * (loss[0] - at_w)


def test_an_overflow_is_reported_and_not_attacked(tmp_path: Path) -> None:
    found = loss_on_digits(tmp_path / "net.pt")
    measured = found.measure(along(1e15))
    assert measured.loss is None
    assert measured.value != measured.value
    assert measured.backwards == 0
    assert found.measure(along(0.0)).loss is not None


def test_a_network_without_weights_cannot_be_displaced() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(
        UserError, match="net.pt has no weight with more than one dimension, so there is nothing to perturb"
    ):
        DisplacedModel(Normalised(Flat(), NONE), "net.pt", torch.rand(1, 1, 2, 2))


def test_tensors_without_gradient_are_not_displaced() -> None:
    weights = {"a": torch.ones(2, 2), "b": torch.ones(2, 3)}
    scaled = tensor_normalised({"a": torch.zeros(2, 2), "b": torch.ones(2, 3)}, weights)
    assert not scaled["a"].any()
    assert isinstance(Directions(shapes_of(weights), 1, 0).raw(0), dict)
