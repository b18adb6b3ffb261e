"""The inner maximisation: stays in ball and box, and reaches the optimum of a linear model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.recipes.sections import Inner, Replicate
from defenses.training.inner_maximisation import direction, maximise
from robust_eval.core.norms import distance, in_box
from robust_eval.core.threat import Norm

W = torch.tensor([[1.0, -2.0, 0.5, 0.0], [-1.0, 1.0, 0.5, 3.0]])
RADIUS: dict[Norm, float] = {"Linf": 0.1, "L2": 0.25}


def forward(x: Tensor) -> Tensor:
    return x.flatten(1) @ W.T


def inner(**changes: Any) -> Inner:
    values = {
        "steps": 10,
        "step_size": "1/4",
        "start": "uniform",
        "start_size": 1,
        "restarts": 1,
        "project": True,
        "batch_norm": "eval",
    }
    return Inner.model_validate(values | changes)


def problem(n: int = 20) -> tuple[Tensor, Tensor, Any]:
    x = 0.3 + 0.4 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 2
    return x, y, lambda logits: F.cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_it_reaches_the_closed_form_optimum_on_a_linear_model(norm: Norm) -> None:
    """Two linear classes: the optimal x' moves along w_k - w_y by the radius, in the dual norm."""
    x, y, loss = problem()
    adv = maximise(forward, loss, x, norm=norm, radius=RADIUS[norm], inner=inner(steps=20, step_size="1/3"))
    away = (W[1 - y] - W[y]).view(-1, 1, 2, 2)
    unit = away.sign() if norm == "Linf" else away / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(loss(forward(adv)), loss(forward(x + RADIUS[norm] * unit)), rtol=1e-3, atol=0)


def replicate(*names: str) -> Replicate:
    return Replicate(**{name: name in names for name in Replicate.model_fields})


def test_slips_of_the_authors_code_can_be_repeated() -> None:
    """An attack without gradient returns its start, projected and clamped."""
    x = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    seen: list[Tensor] = []

    def no_gradient(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return 0 * forward(images)

    def attacked(norm: Norm, *names: str) -> Tensor:
        seen.clear()
        loss = lambda logits: logits.sum(1)  # noqa: E731
        return maximise(
            no_gradient, loss, x, norm=norm, radius=0.1, inner=inner(), replicate=replicate(*names)
        )

    def reach(adv: Tensor) -> float:
        return float((adv - x).abs().max())

    assert reach(attacked("Linf")) <= 0.1 + 1e-6
    assert all(in_box(images).all() for images in seen)
    attacked("Linf", "unclamped_start")
    assert not in_box(seen[0]).all()
    assert in_box(seen[1]).all()
    # The gradient always points up: from a start that is up to a radius away, one more radius.
    rising = maximise(
        lambda v: v.flatten(1),
        lambda logits: logits.sum(1),
        x,
        norm="Linf",
        radius=0.1,
        inner=inner(),
        replicate=replicate("ball_around_start"),
    )
    assert 0.15 < reach(rising) <= 0.2 + 1e-6
    attacked("L2", "wide_start")
    assert 0.4 < float((seen[0] - x).abs().max()) <= 0.5


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
@pytest.mark.parametrize("steps", [1, 7])
def test_it_stays_in_ball_and_box(norm: Norm, start: str, steps: int) -> None:
    x = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    x[:5], x[5:10] = 0.0, 1.0
    y = torch.arange(30) % 2
    size = 0.001 if start == "gaussian" else 1
    adv = maximise(
        forward,
        lambda logits: F.cross_entropy(logits, y, reduction="none"),
        x,
        norm=norm,
        radius=RADIUS[norm],
        inner=inner(steps=steps, start=start, start_size=size, step_size="5/4"),
    )
    assert distance(adv, x, norm).max() <= RADIUS[norm] + 1e-6
    assert in_box(adv).all()
    assert not adv.requires_grad


def test_n_fgsm_leaves_the_ball_but_not_the_box() -> None:
    x, _, loss = problem()
    adv = maximise(
        forward,
        loss,
        x,
        norm="Linf",
        radius=0.2,
        inner=inner(steps=1, step_size=1, start_size=2, project=False),
    )
    largest = distance(adv, x, "Linf").max()
    assert 0.2 < largest <= 0.6 + 1e-6
    assert in_box(adv).all()


def test_zero_radius_or_no_steps_returns_the_images() -> None:
    x, _, loss = problem()
    assert torch.equal(maximise(forward, loss, x, norm="Linf", radius=1e-9, inner=inner()), x)
    assert torch.equal(maximise(forward, loss, x, norm="Linf", radius=0.1, inner=inner(steps=0)), x)


def test_restarts_keep_the_highest_loss_per_image() -> None:
    x, _, _ = problem()

    def loss(logits: Tensor) -> Tensor:
        return torch.sin(40 * logits[:, 0])  # many local maxima

    torch.manual_seed(0)
    one = loss(forward(maximise(forward, loss, x, norm="Linf", radius=0.1, inner=inner(step_size="1/50"))))
    torch.manual_seed(0)
    many = maximise(forward, loss, x, norm="Linf", radius=0.1, inner=inner(step_size="1/50", restarts=5))
    assert (loss(forward(many)) >= one - 1e-6).all()
    assert (loss(forward(many)) > one + 1e-3).any()


def test_gradients_that_are_not_finite_are_ignored() -> None:
    x, _, _ = problem()
    adv = maximise(
        forward,
        lambda logits: (logits[:, 0] - logits[:, 0]).sqrt(),  # infinite slope at 0
        x,
        norm="L2",
        radius=0.25,
        inner=inner(start="none"),
    )
    torch.testing.assert_close(adv, x)


@pytest.mark.parametrize("gap", [20, 45, 75, 82])
def test_confident_predictions_do_not_shorten_steps(gap: float) -> None:
    """The gradients are about exp(-gap); images at 0.02 to 0.5 from a plane, broken if within 0.25."""
    w = F.normalize(W[0], dim=0)
    distances = torch.linspace(0.02, 0.5, 25)
    x = (0.5 + distances[:, None] * w).view(-1, 1, 2, 2)
    y = torch.zeros(25).long()

    def plane(x: Tensor) -> Tensor:
        z = gap * ((x - 0.5).flatten(1) @ w)
        return torch.stack([z, -z], 1)

    adv = maximise(
        plane,
        lambda logits: F.cross_entropy(logits, y, reduction="none"),
        x,
        norm="L2",
        radius=0.25,
        inner=inner(steps=20),
    )
    assert torch.equal(plane(adv).argmax(1) == 1, distances < 0.25)


def test_ordinary_gradients_are_divided_as_in_the_code_of_the_authors() -> None:
    gradient = torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -5, 3, 9
    ).view(-1, 1, 1, 1)
    norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.equal(direction(gradient, "L2"), gradient / (norm + 1e-10))


def test_the_weights_receive_no_gradient() -> None:
    layer = torch.nn.Linear(4, 2)
    x, _, loss = problem()
    maximise(lambda v: layer(v.flatten(1)), loss, x, norm="Linf", radius=0.1, inner=inner())
    assert layer.weight.grad is None
