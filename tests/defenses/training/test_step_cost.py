"""Operations that a training step must avoid, such as synchronising with the device."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from support.small_jobs import make_job
from support.torch_operations import Operations
from torch import Tensor, nn

from defenses.recipes.choices import Choices
from defenses.recipes.resolve import resolve
from defenses.training import optimiser
from defenses.training.context import begin
from defenses.training.runtime import start_runtime
from defenses.training.step import TrainingStep


def operations(name: str, steps: int) -> Operations:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    x_NCHW, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    model(x_NCHW)
    sets = (f"inner.steps={steps}", "perturbation.warmup=0")
    recipe = resolve(name, Choices(data="digits", sets=sets)).recipe
    made = TrainingStep(recipe, model, optimiser.build_optimiser(model, recipe.optimiser), nullcontext)
    seen = Operations()
    with seen:
        made(x_NCHW, y, epsilon_fraction=1.0, perturb=True)
    return seen


@pytest.mark.parametrize("name", ["at-awp", "trades-awp", "mart-awp"])
def test_a_step_does_not_synchronise_with_the_device(name: str) -> None:
    waiting = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}
    assert not waiting & set(operations(name, 2).names)


def test_attacks_compute_no_weight_gradients() -> None:
    """Two convolutions: gradients for the weight perturbation and for the update, none for the attack."""
    assert [operations("at-awp", steps).weight_gradients for steps in (1, 5)] == [4, 4]


def test_the_perturbation_uses_multi_tensor_operations() -> None:
    names = operations("at-awp", 1).names
    for expected in ("_foreach_norm", "_foreach_mul_", "_foreach_add_", "_foreach_copy_"):
        assert expected in names


def test_networks_are_trained_channels_last(tmp_path: Path) -> None:
    _, state = begin(make_job(tmp_path, "at-awp"), start_runtime("cpu", "32", 1))
    weights: list[Tensor] = [m.weight for m in state.network.modules() if isinstance(m, nn.Conv2d)]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
