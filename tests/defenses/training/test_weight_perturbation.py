"""In-place AWP compared with the authors' formulation: the rescaled update of a second network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.recipes.sections import Perturbation
from defenses.training.batchnorm import frozen_statistics
from defenses.training.weight_perturbation import WeightPerturbation, perturbed_parameters

GAMMA = 0.01


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 1, 6, 6, generator=generator), torch.arange(8) % 3


def config(**changes: Any) -> Perturbation:
    values = {
        "kind": "awp",
        "gamma": GAMMA,
        "size": "L2",
        "alternations": 1,
        "steps": 1,
        "step_size": 0,
        "warmup": 0,
        "regulariser": "none",
        "strength": 0.0,
    }
    return Perturbation.model_validate(values | changes)


def loss_of(net: nn.Module) -> Callable[[], Tensor]:
    x, y = batch()
    return lambda: F.cross_entropy(net(x), y)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def two_networks(net: nn.Module, lr: float = 0.01) -> dict[str, Tensor]:
    """v as the authors compute it with a second network, in float64."""
    proxy = copy.deepcopy(net).double().train()
    x, y = batch()
    optimiser = torch.optim.SGD(proxy.parameters(), lr=lr)
    before = {name: value.clone() for name, value in proxy.state_dict().items()}
    (-F.cross_entropy(proxy(x.double()), y)).backward()
    optimiser.step()
    found = {}
    for name, after in proxy.state_dict().items():
        if "weight" in name and after.dim() > 1:
            difference = after - before[name]
            found[name] = GAMMA * before[name].norm() / (difference.norm() + 1e-20) * difference
    return found


def test_the_perturbation_is_that_of_the_second_network() -> None:
    net = network().train()
    before, expected = weights(net), two_networks(net)
    perturbation = WeightPerturbation(net, config())
    with perturbation.scope():
        with frozen_statistics(net):
            perturbation.ascend(loss_of(net))
        moved = weights(net)
    assert expected.keys() == {"0.weight", "4.weight"}
    for name, value in moved.items():
        v = value.double() - before[name].double()
        # Rounding of w + v in float32, relative to the size of w.
        torch.testing.assert_close(v, expected.get(name, torch.zeros_like(v)), rtol=0, atol=2e-7)


def test_only_multi_dimensional_weights_move_and_by_gamma_times_their_norm() -> None:
    net = network().train()
    before = weights(net)
    perturbation = WeightPerturbation(net, config())
    with perturbation.scope():
        perturbation.ascend(loss_of(net))
        for name, value in weights(net).items():
            expected = GAMMA if name in ("0.weight", "4.weight") else 0.0
            distance = (value - before[name]).norm().item()
            assert distance == pytest.approx(expected * before[name].norm().item(), rel=1e-4)


def test_an_unused_block_of_a_network_is_not_perturbed() -> None:
    net = network().train()
    net.add_module("unused", nn.Linear(3, 3))
    x, y = batch()
    perturbation = WeightPerturbation(net, config())
    before = weights(net)
    with perturbation.scope():
        perturbation.ascend(lambda: F.cross_entropy(net[:5](x), y))  # type: ignore[index]
        assert torch.equal(net.unused.weight, before["unused.weight"])


@pytest.mark.parametrize("decay", [0.0, 5e-3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_update_is_the_authors_step_at_w_plus_v_minus_v(decay: float, momentum: float) -> None:
    """Eq. 11 with the optimiser's own terms taken at w+v, over three updates."""
    ours, theirs = network().train(), network().double().train()
    x, y = batch()
    options = {"lr": 0.1, "momentum": momentum, "weight_decay": decay}
    step, their_step = (
        torch.optim.SGD(ours.parameters(), **options),
        torch.optim.SGD(theirs.parameters(), **options),
    )
    for _ in range(3):
        v = two_networks(theirs)
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                p += v.get(name, 0)
        their_step.zero_grad()
        F.cross_entropy(theirs(x.double()), y).backward()
        their_step.step()
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                p -= v.get(name, 0)

        perturbation = WeightPerturbation(ours, config())
        step.zero_grad()
        with perturbation.scope():
            with frozen_statistics(ours):
                perturbation.ascend(loss_of(ours))
            loss_of(ours)().backward()
            perturbation.add_decay_of_perturbation(lambda _: decay)
        step.step()
    for name, value in weights(ours).items():
        torch.testing.assert_close(
            value.double(), dict(theirs.named_parameters())[name].detach(), rtol=1e-5, atol=1e-6
        )


def test_without_decay_the_step_is_gradient_descent_with_the_gradient_at_w_plus_v() -> None:
    """Eq. 11, bit for bit: w_new = w - lr * gradient(w + v)."""
    net = network().train()
    before = weights(net)
    perturbation, step = WeightPerturbation(net, config()), torch.optim.SGD(net.parameters(), lr=0.1)
    with perturbation.scope():
        perturbation.ascend(loss_of(net))
        loss_of(net)().backward()
        perturbation.add_decay_of_perturbation(lambda _: 0.0)
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    step.step()
    for name, value in weights(net).items():
        assert torch.equal(value, before[name].add(gradients[name], alpha=-0.1))


def test_weights_are_restored_bit_for_bit_also_if_the_step_raises() -> None:
    net = network().train()
    before = weights(net)
    perturbation = WeightPerturbation(net, config(gamma=0.3, steps=3, step_size=1, kind="awp"))

    def fail() -> None:
        with perturbation.scope():
            perturbation.ascend(loss_of(net))
            assert not torch.equal(net[0].weight, before["0.weight"])  # type: ignore[index]
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert all(torch.equal(value, before[name]) for name, value in weights(net).items())


def test_batch_norm_statistics_are_identical_after_the_perturbation_pass() -> None:
    net = network().train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    perturbation = WeightPerturbation(net, config())
    with perturbation.scope(), frozen_statistics(net):
        perturbation.ascend(loss_of(net))
    assert len(before) == 3
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    net(batch()[0])
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])  # type: ignore[index]


def test_default_steps_over_alternations_add_up_to_at_most_gamma() -> None:
    net = network().train()
    before = weights(net)
    perturbation = WeightPerturbation(net, config(alternations=2, steps=2))
    with perturbation.scope():
        shares = []
        for _ in range(2):
            perturbation.ascend(loss_of(net))
            v = net[0].weight - before["0.weight"]  # type: ignore[index]
            shares.append((v.norm() / before["0.weight"].norm()).item())
    # Gradients are nearly parallel: about gamma / 2 after the first alternation, at most gamma after both.
    assert shares[0] == pytest.approx(GAMMA / 2, rel=0.05)
    assert GAMMA * 0.9 < shares[1] <= GAMMA * (1 + 1e-4)


def test_larger_steps_are_projected_onto_the_sphere() -> None:
    net = network().train()
    before = weights(net)
    perturbation = WeightPerturbation(net, config(steps=3, step_size=1))
    with perturbation.scope():
        perturbation.ascend(loss_of(net))
        for p, name in zip(perturbed_parameters(net), ("0.weight", "4.weight"), strict=True):
            assert ((p - before[name]).norm() / before[name].norm()).item() <= GAMMA * (1 + 1e-4)


def test_l1_size() -> None:
    net = network().train()
    before = weights(net)
    perturbation = WeightPerturbation(net, config(size="L1"))
    with perturbation.scope():
        perturbation.ascend(loss_of(net))
        v = net[0].weight - before["0.weight"]  # type: ignore[index]
    assert (v.abs().sum() / before["0.weight"].abs().sum()).item() == pytest.approx(GAMMA, rel=1e-4)


def test_awp_raises_the_loss_much_more_than_a_random_direction_of_the_same_size() -> None:
    net = network().train()
    loss = loss_of(net)
    rises = {}
    for kind in ("awp", "rwp"):
        perturbation = WeightPerturbation(net, config(kind=kind, gamma=0.05))
        at_w = loss().item()
        with perturbation.scope():
            torch.manual_seed(0)
            before = weights(net)
            perturbation.ascend(loss)
            assert ((net[4].weight - before["4.weight"]).norm() / before["4.weight"].norm()).item() == (  # type: ignore[index]
                pytest.approx(0.05, rel=1e-4)
            )
            rises[kind] = loss().item() - at_w
    assert rises["awp"] > 0
    assert abs(rises["rwp"]) < rises["awp"] / 3


def test_processes_agree_on_a_random_direction() -> None:
    """Each process draws its own; the normalised mean is added, at full size."""
    moved = []
    for seed in (0, 1):
        net = network()
        perturbation = WeightPerturbation(net, config(kind="rwp", gamma=0.05), halves_of_one_draw)
        torch.manual_seed(seed)
        with perturbation.scope():
            before = weights(net)
            perturbation.ascend(lambda: torch.zeros(()))
            moved.append(weights(net)["4.weight"] - before["4.weight"])
    assert torch.equal(moved[0], moved[1])
    assert (moved[0].norm() / before["4.weight"].norm()).item() == pytest.approx(0.05, rel=1e-4)


def halves_of_one_draw(drawn: Sequence[Tensor]) -> None:
    """Replaces the mean over processes."""
    generator = torch.Generator().manual_seed(5)
    for tensor in drawn:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)


def test_a_loss_without_gradient_gives_no_perturbation() -> None:
    net = network().train()
    before = weights(net)
    perturbation = WeightPerturbation(net, config())
    with perturbation.scope():
        perturbation.ascend(lambda: 0.0 * loss_of(net)())
        assert all(torch.equal(value, before[name]) for name, value in weights(net).items())


def test_one_copy_of_the_perturbed_weights_is_kept_inside_the_scope_only() -> None:
    net = network().train()
    perturbation = WeightPerturbation(net, config())
    with perturbation.scope():
        perturbation.ascend(loss_of(net))
        kept = sum(
            t.numel() for value in vars(perturbation).values() if isinstance(value, list) for t in value
        )
        assert kept == 2 * sum(p.numel() for p in perturbed_parameters(net))  # the weights and their copy
    assert perturbation._saved == []


def test_gamma_zero_turns_the_perturbation_off() -> None:
    assert WeightPerturbation(network(), config(gamma=0.0)).parameters == []
    assert config(step_size="1/2").step_size == Fraction(1, 2)
