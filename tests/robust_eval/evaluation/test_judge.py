"""Verdicts: which adversarial images count as valid, and when an example counts as robust."""

from __future__ import annotations

import pytest
import torch
from support.known_models import linear_problem
from torch import Tensor, nn

from robust_eval.core.threat import parse_threat
from robust_eval.evaluation.judge import judge, judge_clean

THREAT = parse_threat("Linf", "0.05")


class Constant(nn.Module):
    """Predicts class 0 for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).repeat(len(x), 1)


class NaNBelow(nn.Module):
    """Predicts class 0 for bright images and returns NaN for dark ones."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) > 0.5
        return torch.where(bright[:, None], torch.tensor([1.0, 0.0]), torch.tensor(float("nan")))


def test_an_image_outside_the_ball_is_invalid() -> None:
    model, x, y = linear_problem()
    right = judge_clean(model, x, y, range(len(y))).robust
    x, y = x[right], y[right]
    target = torch.zeros_like(x)
    verdicts = judge(model, x, y, target, range(len(y)), THREAT)
    assert not verdicts.in_ball.any()
    assert verdicts.robust.all()
    assert not verdicts.valid.any()


def test_an_image_outside_the_box_is_invalid() -> None:
    x, y = torch.ones(2, 1, 2, 2), torch.ones(2, dtype=torch.int64)
    verdicts = judge(Constant(), x, y, x + 0.01, [5, 6], THREAT)
    assert not verdicts.in_box.any()
    assert verdicts.robust.all()


def test_nan_logits_are_never_robust() -> None:
    x, y = torch.full((1, 1, 2, 2), 0.51), torch.zeros(1, dtype=torch.int64)
    assert judge_clean(NaNBelow(), x, y, [0]).robust.all()
    verdicts = judge(NaNBelow(), x, y, x - 0.04, [0], THREAT)
    assert verdicts.adv_pred[0] == 0
    assert not verdicts.finite.any()
    assert not verdicts.robust.any()


def test_an_image_with_nan_pixels_is_invalid() -> None:
    x, y = torch.full((1, 1, 2, 2), 0.51), torch.zeros(1, dtype=torch.int64)
    verdicts = judge(Constant(), x, y, x * float("nan"), [0], THREAT)
    assert not verdicts.valid.any()
    assert verdicts.robust.all()


def test_unchanged_images_break_nothing() -> None:
    """The verdict depends on the model's prediction only, not on what an attack reports."""
    model, x, y = linear_problem()
    right = judge_clean(model, x, y, range(len(y))).robust
    verdicts = judge(model, x[right], y[right], x[right], range(int(right.sum())), THREAT)
    assert verdicts.robust.all()


def test_misclassified_images_are_not_robust() -> None:
    model, x, y = linear_problem(n=40)
    verdicts = judge_clean(model, x, y, range(40))
    assert (~verdicts.robust).sum() == 4


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_images_just_across_the_decision_boundary_count_as_broken(norm: str) -> None:
    """Minimum-norm attacks and Square return such images; they are judged without rounding."""
    model, x, y = linear_problem(n=60)
    right = torch.from_numpy(judge_clean(model, x, y, range(60)).robust)
    x, y = x[right], y[right]
    with torch.no_grad():
        z = model(x)
    other = z.scatter(1, y[:, None], float("-inf")).argmax(1)
    w = model.fc.weight.detach()
    away = (w[other] - w[y]).view_as(x)
    direction = away.sign() if norm == "Linf" else away / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    gap = (z.gather(1, y[:, None]) - z.gather(1, other[:, None])).squeeze(1)
    slope = (away * direction).flatten(1).sum(1)
    adv = x + direction * (gap / slope).view(-1, 1, 1, 1) * (1 + 1e-5)
    with torch.no_grad():
        over = model(adv).argmax(1) != y
    verdicts = judge(model, x, y, adv, range(len(y)), parse_threat(norm, "0.99"))
    assert over.float().mean() > 0.9
    assert (verdicts.robust == ~over.numpy()).all()
