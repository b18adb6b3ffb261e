"""Losses compared with values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.objectives import cross_entropy, mart, objective_ids, objective_module, trades

# Two classes, one image: p(x) = (3/4, 1/4), p(x') = (1/2, 1/2).
NATURAL = torch.tensor([[math.log(3.0), 0.0]])
ADVERSARIAL = torch.tensor([[0.0, 0.0]])
KL = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
TRADES = {"name": "trades", "beta": 6.0, "passes": "natural-adversarial-natural"}
X, ADV, Y = torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0])


def forward(x: Tensor) -> Tensor:
    return NATURAL if x.sum() == 0 else ADVERSARIAL


def test_cross_entropy_uses_only_the_adversarial_image() -> None:
    terms = cross_entropy.loss(forward, X, ADV, Y, cross_entropy.Params(name="cross-entropy"))
    assert terms.loss.item() == pytest.approx(math.log(2))
    assert torch.equal(terms.logits_NK, ADVERSARIAL)


def test_trades() -> None:
    terms = trades.loss(forward, X, ADV, Y, trades.Params.model_validate(TRADES))
    assert terms.loss.item() == pytest.approx(-math.log(0.75) + 6 * KL, rel=1e-6)
    attacked = trades.attack_loss(forward, X, Y, trades.Params.model_validate(TRADES))(ADVERSARIAL)
    assert attacked.tolist() == pytest.approx([KL], rel=1e-6)


def test_trades_equals_the_authors_expression() -> None:
    generator = torch.Generator().manual_seed(0)
    natural, adversarial = torch.randn(2, 5, 7, generator=generator)
    theirs = F.kl_div(F.log_softmax(adversarial, 1), F.softmax(natural, 1), reduction="sum") / 5
    assert trades.divergence(natural, adversarial).mean().item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_gradient_of_trades_flows_through_the_natural_probabilities() -> None:
    natural = NATURAL.clone().requires_grad_()
    trades.divergence(natural, ADVERSARIAL).sum().backward()
    # d KL / d z_0 = p_0 p_1 (log p_0/q_0 - log p_1/q_1), which detaching p(x) would make 0.
    expected = 0.75 * 0.25 * (math.log(1.5) - math.log(0.5))
    assert natural.grad is not None
    assert natural.grad[0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_mart() -> None:
    terms = mart.loss(forward, X, ADV, Y, mart.Params(name="mart", beta=6.0))
    boosted = -math.log(0.5) - math.log(1.0001 - 0.5 + 1e-12)
    assert terms.loss.item() == pytest.approx(boosted + 6 * KL * (1.0000001 - 0.75), rel=1e-5)


def test_boosted_cross_entropy_uses_the_largest_other_class() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    p = logits.softmax(1)
    expected = [
        -math.log(p[0, 0]) - math.log(1.0001 - p[0, 1]),
        -math.log(p[1, 0]) - math.log(1.0001 - p[1, 2]),
    ]
    found = mart.boosted_cross_entropy(logits, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_mart_keeps_finite_gradients_where_probabilities_underflow() -> None:
    natural = torch.tensor([[200.0, 0.0]], requires_grad=True)
    adversarial = torch.tensor([[-200.0, 0.0]], requires_grad=True)
    y = torch.tensor([1])
    (
        mart.weighted_divergence(natural, adversarial, y) + mart.boosted_cross_entropy(adversarial, y)
    ).sum().backward()
    assert natural.grad is not None
    assert natural.grad.isfinite().all()
    assert adversarial.grad is not None
    assert adversarial.grad.isfinite().all()


def test_the_attack_losses_are_per_image() -> None:
    for name in objective_ids():
        file = objective_module(name)
        given = {"cross-entropy": {"name": name}, "trades": TRADES}.get(name, {"name": name, "beta": 6.0})
        params = file.Params.model_validate(given)
        logits = torch.randn(4, 3)
        loss = file.attack_loss(lambda x: x, logits + 1, torch.tensor([0, 1, 2, 0]), params)
        assert loss(logits).shape == (4,), name


def test_mixed_labels_give_the_mixture_of_the_losses() -> None:
    logits, share = torch.randn(6, 3), 0.3
    y1, y2 = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1, 1, 0, 2, 2, 0])
    mixed = share * F.one_hot(y1, 3) + (1 - share) * F.one_hot(y2, 3)
    params = cross_entropy.Params(name="cross-entropy")
    ours = cross_entropy.loss(lambda x: x, logits, logits, mixed, params).loss
    theirs = share * F.cross_entropy(logits, y1) + (1 - share) * F.cross_entropy(logits, y2)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
