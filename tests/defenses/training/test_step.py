"""One training step: order of the passes, BatchNorm modes, penalties, flatness regulariser."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.recipes.choices import Choices
from defenses.recipes.resolve import resolve
from defenses.training import optimiser
from defenses.training.step import TrainingStep


class Recorder(nn.Module):
    """A network that records in which mode each forward pass was made."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3, 1, 1)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3 * 16, 4)
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.training, self.bn.track_running_stats))
        logits: Tensor = self.fc(F.relu(self.bn(self.conv(x))).flatten(1))
        return logits


def step(name: str, *sets: str) -> tuple[TrainingStep, Recorder]:
    small = ("inner.steps=3", "perturbation.warmup=0", *sets)
    recipe = resolve(name, Choices(data="digits", sets=small)).recipe
    model = Recorder()
    return TrainingStep(recipe, model, optimiser.build_optimiser(model, recipe.optimiser), nullcontext), model


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(12, 1, 4, 4, generator=generator), torch.arange(12) % 4


def take(name: str, *sets: str, perturb: bool = True) -> Recorder:
    made, model = step(name, *sets)
    torch.manual_seed(1)
    made(*batch(), epsilon_fraction=1.0, perturb=perturb)
    return model


TRAIN, EVAL, FROZEN = (True, True), (False, True), (True, False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("at", [TRAIN] * 3 + [TRAIN]),
        ("at-awp", [TRAIN] * 3 + [FROZEN] + [TRAIN]),
        # TRADES: one natural pass for the whole attack; x' and x once each in the loss.
        ("trades", [EVAL] * 4 + [TRAIN] * 2),
        ("trades-awp", [EVAL] * 4 + [FROZEN] * 2 + [TRAIN] * 2),
        ("mart", [EVAL] * 3 + [TRAIN] * 2),
        ("at-rwp", [TRAIN] * 3 + [TRAIN]),
        ("fgsm-rs", [TRAIN] * 3 + [TRAIN]),
    ],
)
def test_forwards_and_their_modes(name: str, expected: list[tuple[bool, bool]]) -> None:
    assert take(name).calls == expected


def test_each_alternation_attacks_at_the_perturbed_weights() -> None:
    calls = take("at-awp", "perturbation.alternations=2", "perturbation.steps=2").calls
    assert calls == ([TRAIN] * 3 + [FROZEN] * 2) * 2 + [TRAIN]


def test_natural_training_makes_one_forward() -> None:
    assert take("natural", "inner.steps=0").calls == [TRAIN]


def test_the_optional_natural_forward_comes_last() -> None:
    assert take("at", "training.natural_forward=true").calls == [TRAIN] * 5


def test_perturbed_and_plain_steps_differ_only_by_the_perturbation() -> None:
    plain, off, on = take("at"), take("at-awp", perturb=False), take("at-awp")
    assert torch.equal(plain.fc.weight, off.fc.weight)
    assert not torch.equal(plain.fc.weight, on.fc.weight)
    assert torch.equal(off.bn.running_mean, plain.bn.running_mean)


def test_a_step_that_raises_leaves_the_weights_as_they_were() -> None:
    made, model = step("at-awp", "perturbation.gamma=0.5")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen: list[bool] = []

    def fail(*_: Any) -> Any:
        seen.append(torch.equal(model.conv.weight, before["conv.weight"]))
        raise MemoryError

    made._backward = fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        made(*batch(), epsilon_fraction=1.0, perturb=True)
    assert seen == [False]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_l1_penalty_adds_its_sign_to_the_gradient() -> None:
    plain, l1 = (
        take("at", "optimiser.weight_decay=0.0"),
        take("at", "optimiser.weight_decay=0.0", "optimiser.l1=0.01"),
    )
    start = Recorder()
    torch.testing.assert_close(
        l1.fc.weight, plain.fc.weight - 0.1 * 0.01 * start.fc.weight.sign(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(l1.fc.bias, plain.fc.bias)


def test_gradients_are_clipped_to_the_norm_of_all_parameters() -> None:
    clipped, plain = (
        take("at", "optimiser.weight_decay=0.0", f"optimiser.clip={clip}") for clip in (0.001, 0)
    )
    start = Recorder()
    with torch.no_grad():
        moved, free = (
            torch.cat([(p - q).flatten() for p, q in zip(net.parameters(), start.parameters(), strict=True)])
            for net in (clipped, plain)
        )
    assert free.norm().item() > 0.001 * 0.1
    torch.testing.assert_close(moved, free * (0.001 * 0.1 / free.norm()), rtol=1e-2, atol=1e-7)


def test_weight_decay_of_adamw_is_apart_from_the_gradient() -> None:
    sets = ("optimiser.name=adamw", "optimiser.lr=0.01", "optimiser.weight_decay=0.5")
    without, decayed = take("at", *sets[:2], "optimiser.weight_decay=0.0"), take("at", *sets)
    torch.testing.assert_close(
        decayed.fc.weight, without.fc.weight - 0.01 * 0.5 * Recorder().fc.weight, rtol=1e-4, atol=1e-7
    )


def test_l2_does_not_apply_to_biases_and_batch_norm() -> None:
    made, model = step("at", "optimiser.name=adamw")
    assert optimiser.weight_decay_of(made.optimiser)(model.conv.weight) == 0
    made, model = step("at-l2")
    decay = optimiser.weight_decay_of(made.optimiser)
    assert (decay(model.conv.weight), decay(model.conv.bias), decay(model.bn.weight)) == (5e-3, 0.0, 0.0)
    optimiser.set_learning_rate(made.optimiser, 0.01)
    assert [group["lr"] for group in made.optimiser.param_groups] == [0.01, 0.01]
    made, _ = step("at-l2", "optimiser.undecayed_lr=constant")
    optimiser.set_learning_rate(made.optimiser, 0.01)
    assert [group["lr"] for group in made.optimiser.param_groups] == [0.01, 0.1]


def test_weight_decay_reaches_every_parameter_by_default() -> None:
    made, model = step("at")
    decay = optimiser.weight_decay_of(made.optimiser)
    assert {decay(p) for p in model.parameters()} == {5e-4}


@pytest.mark.parametrize("kind", ["absolute", "square"])
def test_the_flatness_regulariser_has_the_gradient_of_its_formula(kind: str) -> None:
    """Compared with automatic differentiation of rho(w) + s |rho(w+v) - rho(w)| (or squared), v fixed."""
    strength, gamma, x, y = 0.7, 0.05, *batch()
    made, model = step(
        "at-awp",
        "inner.start=none",
        f"perturbation.gamma={gamma}",
        f"perturbation.regulariser={kind}",
        f"perturbation.strength={strength}",
    )
    reference = Recorder().train()
    adv = made.attack(x, y, 1.0)
    parameters = dict(reference.named_parameters())
    gradients = torch.autograd.grad(F.cross_entropy(reference(adv), y), list(parameters.values()))
    moved = {
        name: p + gamma * p.detach().norm() * g / g.norm() if name in ("conv.weight", "fc.weight") else p
        for (name, p), g in zip(parameters.items(), gradients, strict=True)
    }
    at_w = F.cross_entropy(reference(adv), y)
    rise = F.cross_entropy(torch.func.functional_call(reference, moved, (adv,)), y) - at_w
    assert rise > 0
    (at_w + strength * (rise.abs() if kind == "absolute" else rise**2)).backward()

    made(x, y, epsilon_fraction=1.0, perturb=True)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, parameters[name].grad, rtol=1e-3, atol=1e-5, msg=name)
