"""What must hold on a CUDA device: the same verdicts, compiled graphs, bfloat16, and a training step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.small_jobs import make_job

from defenses.training.display import SilentTrainingDisplay
from defenses.training.runtime import start_runtime
from defenses.training.signals import InterruptHandler
from defenses.training.trainer import train
from robust_eval import data, evaluate
from robust_eval.evaluation import attack_copy
from robust_eval.models import architectures
from robust_eval.models.acceleration.frozen_copy import frozen
from robust_eval.models.acceleration.tuning import Tuning
from robust_eval.verification.selftest.cases_unmodified import trained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data.load("digits").take(n).tensors()
    return x.cuda(), y.cuda()


def test_verdicts_are_those_of_the_cpu_but_for_rounding() -> None:
    model = trained().model
    x, y = digits(64)
    here = evaluate(model, x.cpu(), y.cpu(), "Linf 0.1", suite="fgsm,pgd-20,aa")
    there = evaluate(model.cuda(), x, y, "Linf 0.1", suite="fgsm,pgd-20,aa")
    model.cpu()
    for name in here.columns:
        assert abs(here.columns[name].n_robust - there.columns[name].n_robust) <= 2, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_pass_is_the_eager_one(precision: str) -> None:
    torch.manual_seed(0)
    network = architectures.build("resnet-18", classes=10, channels=3, image_size=(32, 32)).eval().cuda()
    x = torch.rand(70, 3, 32, 32, device="cuda")
    plain = frozen(network, sample=x[:4], precision=precision)
    quick = frozen(network, sample=x[:4], precision=precision, tuning=Tuning(32, 32, True, True))
    tolerance = 1e-3 if precision == "float32" else 0.05
    for _ in range(3):
        first, second = quick(x), quick(x.flip(0))
        assert torch.equal(first, second.flip(0)) or (first - second.flip(0)).abs().max() < tolerance
        assert (first - plain(x)).abs().max() < tolerance * (1 + plain(x).abs().max())
    slopes = []
    for search in (plain, quick):
        leaf = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(search(leaf)[:, 0].sum(), leaf)[0])
    assert torch.nn.functional.cosine_similarity(*(s.flatten() for s in slopes), dim=0) > 0.99


@pytest.mark.parametrize("rows", [64, 1024])
def test_small_steps_are_those_of_float32(rows: int) -> None:
    torch.manual_seed(0)
    network = architectures.build("resnet-18", classes=10, channels=3, image_size=(32, 32)).eval().cuda()
    x = torch.rand(5, 3, 32, 32, device="cuda")
    steps = 1e-3 * (2 * torch.randint(0, 2, (5, 256, 3, 32, 32), device="cuda").float() - 1)
    quick = frozen(network, sample=x, tuning=Tuning(256, 256, near_rows=rows))
    assert quick.nearby is not None, quick.notes
    with torch.no_grad():
        at = network.double()(x.double())[:, None]
        truth = torch.cat([network(some.double())[None] for some in x[:, None] + steps]) - at
    for _ in range(3):  # the first calls record a graph, the others replay it
        assert (quick.near(x, steps) - at - truth).norm() < 0.05 * truth.norm()


def test_running_out_of_memory_is_survived() -> None:
    network = architectures.build("resnet-18", classes=10, channels=3, image_size=(32, 32)).eval().cuda()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        search, x = frozen(network), torch.rand(1, 3, 32, 32, device="cuda").expand(20_000, -1, -1, -1)
        assert search(x).shape == (20_000, 10)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert search.batch is not None


def test_auto_precision_is_bfloat16_on_a_recent_card() -> None:
    expected = "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float32"
    assert attack_copy.resolve_precision("auto", torch.device("cuda"))[0] == expected


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_defense_trains(tmp_path: Path, precision: str) -> None:
    job = make_job(tmp_path, "at-awp", precision=precision)
    train(job, start_runtime("cuda", precision, 1), SilentTrainingDisplay(), InterruptHandler())
    assert (tmp_path / "last.pt").exists()
