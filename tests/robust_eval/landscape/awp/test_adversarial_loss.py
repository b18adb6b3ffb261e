"""The adversarial loss at displaced weights, against closed forms and against the evaluation's own attack."""

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
from robust_eval.landscape.awp.adversarial_loss import Meter
from robust_eval.landscape.awp.points import Move, Setting, point
from robust_eval.landscape.directions import (
    Directions,
    draw,
    filter_normalised,
    movable,
    tensor_normalised,
)
from robust_eval.landscape.displaced_model import Moving
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.loading.state_dict_diff import shapes_of
from robust_eval.models.normalisation import NONE, Normalised
from robust_eval.verification.selftest.linear_models import linear_problem


def meter(
    network: nn.Module, x: Tensor, y: Tensor, eps: str, *, steps: int = 5, batch: int = 8, classes: int = 10
) -> Meter:
    model = Normalised(network, NONE).eval()
    ref = CheckpointRef("net.pt", "ab" * 32, Architecture("net"), classes, NONE, "robust-eval")
    data = Slice("digits", "train", len(y), "cd" * 32, (), "stored")
    attack = attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps})
    threat = ThreatModel("Linf", Fraction(eps))
    setting = Setting(data, threat, attack, batch, 0, "normal, seed 0")
    return Meter(model, ref, x, y, setting, draw(shapes_of(movable(network)), 2, 0))


def of_digits(path: Path, **changes: Any) -> Meter:
    scan = small_scans.scan(small_scans.write(path), **changes)
    (subject,) = scan.subjects.each
    x, y = scan.subjects.x_NCHW, scan.subjects.y_N
    return Meter(subject.model, subject.ref, x, y, scan.setting, scan.directions)


def walk(size: float, number: int = 0) -> Any:
    return point(Move("filter", number, size))


class Fed(nn.Module):
    """A convolution that feeds BatchNorm, as in every block of the field's networks."""

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
    def rescaled(self) -> Fed:
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


def test_rescaling_a_filter_that_feeds_batchnorm_changes_nothing() -> None:
    x, y = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6)
    one, other = meter(Fed().eval(), x, y, "0.1"), meter(Fed().rescaled().eval(), x, y, "0.1")
    for size in (-1.0, 0.0, 0.5):
        assert other.measure(walk(size)).value == pytest.approx(one.measure(walk(size)).value, rel=1e-4)
    # By tensor instead of by filter the large filter decides how far all go: the test above can fail.
    size = 0.5
    by_tensor = [m.measure(point(Move("rwp", 0, size))).value for m in (one, other)]
    assert by_tensor[0] != pytest.approx(by_tensor[1], rel=1e-2)


@pytest.mark.parametrize("size", [-0.7, 0.0, 0.4])
def test_a_linear_model_has_the_loss_of_the_closed_form(size: float) -> None:
    """Two classes, Linf: the worst x' loses eps times the l1 norm of w_y - w_k, wherever the weights are."""
    model, x, y = linear_problem(n=20, classes=2)
    found = meter(model, x, y, "0.05", steps=10, classes=2)
    weight = model.fc.weight.detach()
    scaled = filter_normalised(found.directions.raw(0), {"fc.weight": weight})["fc.weight"]
    moved = weight + size * scaled
    logits = x.flatten(1) @ moved.T
    margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
    worst = margin - 0.05 * (moved[0] - moved[1]).abs().sum()
    measured = found.measure(walk(size))
    assert measured.value == pytest.approx(float(torch.nn.functional.softplus(-worst).mean()), rel=1e-4)
    assert measured.accuracy == int((worst > 0).sum()) / len(y)


def test_at_w_it_is_the_evaluated_adversarial_loss(tmp_path: Path) -> None:
    """The evaluation's own search, judged on the original network, batch by batch."""
    found = of_digits(tmp_path / "net.pt")
    scan = small_scans.scan(tmp_path / "net.pt")
    model, setting = scan.subjects.each[0].model, scan.setting
    params = attacks.parse("pgd", setting.attack.params)
    losses, right = [], []
    for first in (0, 8):
        x, y = scan.subjects.x_NCHW[first : first + 8], scan.subjects.y_N[first : first + 8]
        seed = seeds.derive(setting.seed, "landscape", str(first))
        search = attacks.family("pgd").search
        adv = search(make_attack_copy(model), x, y, setting.threat, params, classes=10, seed=seed)
        with torch.no_grad():
            logits = model(adv)
        losses.append(cross_entropy(logits, y, reduction="none"))
        right.append(logits.argmax(1) == y)
    measured = found.measure(point())
    assert measured.value == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    assert measured.accuracy == float(torch.cat(right).float().mean())
    assert measured.forwards == 12 * (1 + 3 + 1)
    assert measured.backwards == 12 * 3


def test_the_original_is_bit_for_bit_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_scans.write(tmp_path / "net.pt")
    scan = small_scans.scan(path)
    (subject,) = scan.subjects.each
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    grads = [p.requires_grad for p in subject.model.parameters()]
    found = Meter(
        subject.model, subject.ref, scan.subjects.x_NCHW, scan.subjects.y_N, scan.setting, scan.directions
    )
    found.measure(point(Move("awp", 0, 0.5)))
    found.measure(walk(1.0))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(found, "_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.measure(walk(1.0))
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert [p.requires_grad for p in subject.model.parameters()] == grads
    assert all(p.grad is None for p in subject.model.parameters())


def test_the_copy_comes_home_exactly(tmp_path: Path) -> None:
    (subject,) = small_scans.scan(small_scans.write(tmp_path / "net.pt")).subjects.each
    moving = Moving(subject.model, "net", torch.rand(2, 1, 8, 8))
    direction = {name: torch.randn_like(weight) for name, weight in moving.home.items()}
    moving.place([(direction, 1e7)])
    moved = moving.state()
    assert not all(torch.equal(value, moved[name]) for name, value in moving.home.items())
    moving.place()
    home = moving.state()
    assert all(torch.equal(value, home[name]) for name, value in moving.home.items())


def test_a_point_does_not_depend_on_what_was_measured_before(tmp_path: Path) -> None:
    places = [point(), walk(0.5), walk(0.5, 1), point(Move("filter", 0, 1.0), images="at-w")]
    places += [point(Move("awp", 0, 0.1)), point(Move("filter", 0, -1.0), Move("filter", 1, 0.5))]
    one, other = of_digits(tmp_path / "net.pt"), of_digits(tmp_path / "net.pt")
    forwards = [one.measure(place).value for place in places]
    backwards = [other.measure(place).value for place in reversed(places)]
    assert forwards == backwards[::-1]


def test_images_made_once_underestimate_the_loss(tmp_path: Path) -> None:
    found = of_digits(tmp_path / "net.pt", steps=10, options=small_scans.OPTIONS)
    for size in (-1.0, 1.0):
        anew = found.measure(walk(size)).value
        fixed = found.measure(point(Move("filter", 0, size), images="at-w")).value
        assert fixed < anew


def test_both_perturbations_have_the_norm_of_gamma(tmp_path: Path) -> None:
    found = of_digits(tmp_path / "net.pt")
    shown = found._made_at_w(0, found.x[:8], found.y[:8], "float32")
    random, _ = found._step(Move("rwp", 1, 0.1))
    for direction in (random, found._ascent(shown, found.y[:8])):
        for name, weight in found.moving.home.items():
            torch.testing.assert_close(direction[name].norm(), weight.norm())


def test_awp_raises_the_loss_at_the_rate_of_the_gradient(tmp_path: Path) -> None:
    """To first order the rise is gamma times the sum over layers of norm(w_l) norm(g_l)."""
    found = of_digits(tmp_path / "net.pt", batch_size=12)
    shown = found._made_at_w(0, found.x, found.y, "float32")
    slope = found.moving.gradient(shown, found.y)
    expected = sum(float(g.norm() * found.moving.home[name].norm()) for name, g in slope.items())
    gamma = 1e-4
    loss = [found.measure(point(Move("awp", 0, size), images="at-w")).value for size in (gamma, 2 * gamma)]
    at_w = found.measure(point()).value
    assert (loss[0] - at_w) / gamma == pytest.approx(expected, rel=0.05)
    random = found.measure(point(Move("rwp", 0, gamma), images="at-w")).value
    assert abs(random - at_w) < 0.5 * (loss[0] - at_w)


def test_overflow_is_said_and_not_attacked(tmp_path: Path) -> None:
    found = of_digits(tmp_path / "net.pt")
    measured = found.measure(walk(1e15))
    assert measured.loss is None
    assert measured.value != measured.value
    assert measured.backwards == 0
    assert found.measure(walk(0.0)).loss is not None


def test_a_network_without_weights_cannot_be_moved() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(UserError, match="net.pt has no weight with more than one dimension, so nothing"):
        Moving(Normalised(Flat(), NONE), "net.pt", torch.rand(1, 1, 2, 2))


def test_tensors_without_gradient_stay_where_they_are() -> None:
    weights = {"a": torch.ones(2, 2), "b": torch.ones(2, 3)}
    scaled = tensor_normalised({"a": torch.zeros(2, 2), "b": torch.ones(2, 3)}, weights)
    assert not scaled["a"].any()
    assert isinstance(Directions(shapes_of(weights), 1, 0).raw(0), dict)
