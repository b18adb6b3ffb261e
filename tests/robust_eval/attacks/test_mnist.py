"""On MNIST, robust accuracies agree with plain ART and plain AutoAttack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from pyautoattack import AutoAttack
from torch import Tensor, nn

from robust_eval import attacks, data
from robust_eval.core.threat import parse_threat
from robust_eval.evaluation.planning import suites

EPS = parse_threat("Linf", "0.1")


@pytest.fixture(scope="module")
def problem(data_root: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """MNIST at half size, a small adversarially trained network, and correctly classified test images."""

    def halved(split: str, n: int) -> tuple[Tensor, Tensor]:
        x, y = data.load("mnist", root=data_root, split=split).take(n).tensors()  # type: ignore[arg-type]
        return nn.functional.avg_pool2d(x, 2), y

    x, y = halved("train", 4000)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(588, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(400):
        batch = torch.randint(len(x), (100,))
        start = (x[batch] + EPS.radius * (2 * torch.rand_like(x[batch]) - 1)).requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(start), y[batch]), start)
        delta = (start.detach() + 1.25 * EPS.radius * gradient.sign() - x[batch]).clamp(
            -EPS.radius, EPS.radius
        )
        optimiser.zero_grad()
        nn.functional.cross_entropy(model((x[batch] + delta).clamp(0, 1)), y[batch]).backward()
        optimiser.step()
    model = model.eval().requires_grad_(False)
    x, y = halved("test", 1000)
    right = model(x).argmax(1) == y
    assert right.float().mean() > 0.9
    return model, x[right], y[right]


def robust(column: str, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Robust accuracy under the cascade of a column, in percent."""
    robust_N = torch.ones(len(x), dtype=torch.bool)
    for spec in suites.column(column).attacks:
        left = robust_N.nonzero()[:, 0]
        params = attacks.parse(spec.family, spec.params)
        family = attacks.family(spec.family)
        adv = family.search(model, x[left], y[left], EPS, params, classes=10, seed=1)
        robust_N[left[model(adv).argmax(1) != y[left]]] = False
    return 100 * float(robust_N.float().mean())


def test_fgsm_and_pgd_20_against_plain_art(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 14, 14),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    plain_fgsm = FastGradientMethod(classifier, eps=EPS.radius, eps_step=EPS.radius, batch_size=1000)
    plain_pgd = ProjectedGradientDescent(
        classifier,
        eps=EPS.radius,
        eps_step=EPS.radius / 4,
        max_iter=20,
        num_random_init=1,
        batch_size=1000,
        verbose=False,
    )
    for column, plain in (("fgsm", plain_fgsm), ("pgd-20", plain_pgd)):
        np.random.seed(8)
        adv = plain.generate(x.numpy(), y.numpy())
        theirs = 100 * float((classifier.predict(adv).argmax(1) == y.numpy()).mean())
        ours = robust(column, model, x, y)
        assert 5 < theirs < 95
        assert abs(ours - theirs) <= 0.5


@pytest.mark.slow
def test_autoattack_against_plain_pyautoattack(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The seed is the same; with another seed AutoAttack differs by one or two images in 200."""
    model, x, y = problem
    x, y = x[:200], y[:200]
    plain = AutoAttack(model, norm="Linf", eps=EPS.radius, seed=1, version="standard", device="cpu")
    adv, _ = plain.run_standard_evaluation(x, y, batch_size=200)
    theirs = 100 * float((model(adv).argmax(1) == y).float().mean())
    assert 5 < theirs < 95
    assert abs(robust("aa", model, x, y) - theirs) <= 0.5
