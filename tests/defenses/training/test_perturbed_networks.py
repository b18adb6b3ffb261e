"""Weight perturbation of networks other than convolutional ones: what is perturbed, and by how much."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from defenses.recipes.sections import Perturbation
from defenses.training.batches import BatchSampler, ImagePool
from defenses.training.forward_passes import ForwardPasses
from defenses.training.weight_perturbation import WeightPerturbation
from robust_eval.core.errors import UserError

GAMMA = 0.01


def config(size: str = "L2") -> Perturbation:
    return Perturbation.model_validate(
        {
            "kind": "awp",
            "gamma": GAMMA,
            "size": size,
            "alternations": 1,
            "steps": 1,
            "step_size": 0,
            "warmup": 0,
            "regulariser": "none",
            "strength": 0.0,
        }
    )


def convolutional(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(change(nn.Conv2d(1, 3, 3, padding=1)), nn.Flatten(), change(nn.Linear(48, 4)))


class Kernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.b = nn.Parameter(torch.randn(4, 16)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.kernel.T + self.b


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.attention(x[:, 0], x[:, 0], x[:, 0])[0].mean(1))
        return logits


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x[:, 0])[0][:, -1])
        return logits


class Tied(nn.Module):
    """Two linear layers and an embedding share one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.embedding = nn.Linear(16, 16), nn.Linear(16, 16), nn.Embedding(16, 16)
        self.second.weight = self.embedding.weight = self.first.weight
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x.flatten(1)).relu() + self.embedding((15 * x.mean((1, 2, 3))).long())
        logits: Tensor = self.head(self.second(found))
        return logits


def with_group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 4))


def with_layer_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm([4, 2, 2]), nn.Flatten(), nn.Linear(16, 4))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "spectral norm": (lambda: convolutional(parametrizations.spectral_norm), 2),
    # Length and direction of each weight.
    "weight norm": (lambda: convolutional(parametrizations.weight_norm), 4),
    "orthogonal": (lambda: convolutional(parametrizations.orthogonal), 2),
    "weight norm as hook": (lambda: convolutional(nn.utils.weight_norm), 4),
    "spectral norm as hook": (lambda: convolutional(nn.utils.spectral_norm), 2),
    "another name": (Kernel, 1),
    "attention": (Attention, 3),
    "recurrent": (Recurrent, 3),
    "tied weights": (Tied, 2),
    "group norm": (with_group_norm, 2),
    "layer norm": (with_layer_norm, 3),
}


def loss_of(network: nn.Module) -> Callable[[], Tensor]:
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 4
    return lambda: F.cross_entropy(network(x), y)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_tensor_is_moved_by_gamma(name: str) -> None:
    make, count = NETWORKS[name]
    network = make().train()
    before = [p.detach().clone() for p in network.parameters()]
    perturbation = WeightPerturbation(network, config())
    assert len(perturbation.parameters) == count
    with perturbation.scope():
        perturbation.ascend(loss_of(network))
        moved = [
            float((p - old).detach().norm() / old.norm())
            for p, old in zip(network.parameters(), before, strict=True)
            if not torch.equal(p, old)
        ]
    assert moved == pytest.approx([GAMMA] * count, rel=1e-3)
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))


def test_the_share_of_perturbed_parameters_is_told() -> None:
    perturbation = WeightPerturbation(Kernel(), config())
    assert perturbation.note == "1 weight tensors are perturbed, 94.1% of the parameters"


@pytest.mark.parametrize("frozen", [True, False])
def test_a_network_without_anything_to_perturb_is_refused(frozen: bool) -> None:
    network = Kernel() if frozen else nn.BatchNorm2d(3)
    if frozen:
        network.kernel.requires_grad_(False)  # type: ignore[operator, union-attr]
    with pytest.raises(UserError, match="there is nothing to perturb"):
        WeightPerturbation(network, config())


def test_a_global_perturbation_is_gamma_of_all_weights_along_their_gradient() -> None:
    network = with_group_norm()
    perturbation, loss = WeightPerturbation(network, config("global")), loss_of(network)
    weights = torch.cat([p.detach().flatten() for p in perturbation.parameters])
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss(), perturbation.parameters)])
    with perturbation.scope():
        perturbation.ascend(loss)
        moved = torch.cat([p.detach().flatten() for p in perturbation.parameters]) - weights
    expected = GAMMA * weights.norm() * gradient / gradient.norm()
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["tied weights", "weight norm as hook", "weight norm", "attention"])
def test_frozen_weights_in_bfloat16_give_the_logits_of_autocast(name: str) -> None:
    network = NETWORKS[name][0]().eval()
    passes = ForwardPasses(network, lambda: torch.autocast("cpu", torch.bfloat16))
    x = torch.rand(8, 1, 4, 4)
    assert torch.equal(passes.with_frozen_weights()(x), passes.with_weight_gradients(x))


@pytest.mark.parametrize(("n", "batches"), [(9, [4, 4]), (10, [4, 4, 2]), (8, [4, 4]), (1, [1])])
def test_a_last_batch_of_one_image_is_left_out(n: int, batches: list[int]) -> None:
    pool = ImagePool(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64))
    sampler = BatchSampler(pool, None, batch_size=4, unlabelled=0, seed=0)
    assert [len(y) for _, y in sampler.batches(0)] == batches
    assert sampler.iterations == len(batches)
