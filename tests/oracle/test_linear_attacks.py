"""Attacks on linear models, compared with the robust accuracy in closed form."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from support.known_models import Linear, linear_margin, linear_problem
from torch import Tensor

from robust_eval import attacks
from robust_eval.core.threat import NORMS, Norm, ThreatModel, parse_threat
from robust_eval.evaluation.planning import suites

TWO_CLASSES = ("fgsm", "pgd-20", "pgd-100", "cw-inf", "apgd-ce-t")


@cache
def problem(classes: int) -> tuple[Linear, Tensor, Tensor]:
    """Images around grey, and a model whose logits are 0 for grey: the box does not limit attacks."""
    model, x, _ = linear_problem(n=40, classes=classes, shape=(1, 4, 4), seed=classes)
    with torch.no_grad():
        model.fc.bias.copy_(-0.5 * model.fc.weight.sum(1))
    return model.requires_grad_(False), x, model(x).argmax(1)


def epsilons(margins: Tensor, norm: Norm) -> list[ThreatModel]:
    """Epsilons that leave about 3/4, 1/2 and 1/4 robust, each in a wide gap between margins."""
    ordered = margins.sort().values
    found = []
    for share in (0.25, 0.5, 0.75):
        at = int(share * len(ordered))
        gaps = ordered[at - 3 : at + 4].diff()
        low = at - 3 + int(gaps.argmax())
        found.append(parse_threat(norm, f"{(ordered[low] + ordered[low + 1]).item() / 2:.6f}"))
    return found


def survivors(column: str, model: Linear, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """True where no attack of the column's cascade changes the prediction."""
    robust = torch.ones(len(x), dtype=torch.bool)
    for spec in suites.column(column).attacks:
        left = robust.nonzero()[:, 0]
        adv = attacks.family(spec.family).search(
            model,
            x[left],
            y[left],
            threat,
            attacks.parse(spec.family, spec.params),
            classes=model.fc.out_features,
            seed=0,
        )
        robust[left[model(adv).argmax(1) != y[left]]] = False
    return robust


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("classes", "column"),
    [
        *((2, name) for name in TWO_CLASSES),
        (4, "apgd-ce-t"),
        pytest.param(6, "apgd-ce-t", marks=pytest.mark.slow),
    ],
)
def test_white_box_attacks_reach_the_analytic_robust_accuracy_exactly(
    classes: int, column: str, norm: Norm
) -> None:
    model, x, y = problem(classes)
    margins = linear_margin(model, x, y, norm)
    for threat in epsilons(margins, norm):
        expected = margins > threat.radius
        assert 5 <= expected.sum() <= 35
        assert torch.equal(survivors(column, model, x, y, threat), expected), str(threat)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("column", ["pgd-20", "cw-inf"])
def test_untargeted_attacks_break_at_least_half_and_nothing_that_is_robust(column: str, norm: Norm) -> None:
    """With more than two classes, the class nearest to the start is not always the easiest to reach."""
    model, x, y = problem(4)
    margins = linear_margin(model, x, y, norm)
    for threat in epsilons(margins, norm):
        robust = survivors(column, model, x, y, threat)
        assert robust[margins > threat.radius].all()
        within = margins <= threat.radius
        assert (robust & within).sum() <= within.sum() / 2


@pytest.mark.parametrize("norm", NORMS)
def test_spsa_almost_reaches_the_analytic_robust_accuracy(norm: Norm) -> None:
    """In L2 Adam scales each pixel; images with a margin below 0.7 epsilon are broken."""
    model, x, y = problem(4)
    margins = linear_margin(model, x, y, norm)
    for threat in epsilons(margins, norm):
        robust = survivors("spsa", model, x, y, threat)
        assert robust[margins > threat.radius].all()
        assert not robust[margins < 0.7 * threat.radius].any()
        if norm == "Linf":
            assert torch.equal(robust, margins > threat.radius)


@pytest.mark.slow
def test_square_almost_reaches_the_analytic_robust_accuracy() -> None:
    model, x, y = problem(2)
    margins = linear_margin(model, x, y, "Linf")
    threat = epsilons(margins, "Linf")[1]
    params = attacks.parse("autoattack", {"phase": "square"})
    near = (margins < threat.radius) | (margins > 0.8 * threat.radius)
    x, y, margins = x[near], y[near], margins[near]
    adv = attacks.family("autoattack").search(model, x, y, threat, params, classes=2, seed=0)
    robust = model(adv).argmax(1) == y
    assert robust[margins > threat.radius].all()
    assert not robust[margins < 0.8 * threat.radius].any()


class Plane(torch.nn.Module):
    """Two classes on the sides of the plane through grey with the unit normal ``w``; the gap is steep."""

    def __init__(self, w: Tensor, slope: float) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(len(w), 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.stack([w, -w]) * slope / 2)
            self.fc.bias.copy_(-0.5 * self.fc.weight.sum(1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def confident(gap: float) -> tuple[Plane, Tensor, Tensor, Tensor]:
    """(model, images, labels, distances to the plane): the largest gap between the logits is ``gap``."""
    generator = torch.Generator().manual_seed(5)
    w = torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
    distances = torch.linspace(0.02, 0.5, 60)
    around = 0.05 * torch.randn(60, 64, generator=generator)
    x = 0.5 + around + (distances - around @ w)[:, None] * w
    assert x.min() > 0.1
    assert x.max() < 0.9
    return Plane(w, 2 * gap).requires_grad_(False), x.view(-1, 1, 8, 8), torch.zeros(60).long(), distances


@pytest.mark.parametrize("gap", [20, 45, 75, 82])
def test_confident_predictions_do_not_weaken_attacks_in_l2(gap: float) -> None:
    """The cross-entropy gradient is about exp(-gap); its square underflows in float32 from 44."""
    model, x, y, distances = confident(gap)
    threat = parse_threat("L2", "0.4")
    for column in ("fgsm", "apgd-ce-t"):
        assert torch.equal(survivors(column, model, x, y, threat), distances > 0.4), column
    # From a start on the other side of the sphere 20 steps of 15/128 do not quite reach the optimum.
    robust = survivors("pgd-20", model, x, y, threat)
    assert torch.equal(robust, survivors("pgd-20", *confident(10)[:3], threat))
    assert not robust[distances < 0.35].any()
