"""The stages of AutoAttack give the same result as the runner of the library."""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.square import SquareAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.attacks import autoattack
from robust_eval.core import norms
from robust_eval.core.errors import UserError
from robust_eval.core.threat import NORMS, Norm, ThreatModel, parse_threat

PHASES = ("apgd-ce", "apgd-t", "fab-t", "square")
EPSILONS = {"Linf": "0.1", "L2": "0.5"}


@cache
def digits(classes: int = 10) -> tuple[nn.Module, Tensor, Tensor]:
    """A small adversarially trained network, and digits that it classifies correctly."""
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(bunch.target)
    x, y = x[y < classes], y[y < classes]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, classes))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(150):
        batch = torch.randint(len(x), (100,), generator=torch.Generator().manual_seed(step))
        leaf = x[batch].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y[batch]), leaf)
        adv = (x[batch] + 0.1 * gradient.sign()).clamp(0, 1)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(adv), y[batch]).backward()
        optimiser.step()
    model = model.eval().requires_grad_(False)
    x, y = x[-150:], y[-150:]
    right = model(x).argmax(1) == y
    return model, x[right][:30], y[right][:30]


def run(phase: str, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, classes: int = 10) -> Tensor:
    params = autoattack.Params(phase=phase)  # type: ignore[arg-type]  # one of PHASES
    return autoattack.search(model, x, y, threat, params, classes=classes, seed=7)


def broken(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) != y


@pytest.mark.parametrize(
    ("norm", "phases"),
    [
        ("L2", PHASES[:2]),
        pytest.param("L2", PHASES[:3], marks=pytest.mark.slow),
        pytest.param("Linf", PHASES, marks=pytest.mark.slow),
        pytest.param("L2", PHASES, marks=pytest.mark.slow),
    ],
)
def test_the_cascade_equals_the_standard_evaluation_of_the_library(
    norm: Norm, phases: tuple[str, ...]
) -> None:
    """With one batch of survivors and one seed the broken and the adversarial images are the same."""
    model, x, y = digits()
    x, y = x[14:22], y[14:22]  # broken by different stages, and robust
    threat = parse_threat(norm, EPSILONS[norm])
    library = AutoAttack(model, norm=norm, eps=threat.radius, seed=7, version="standard")
    library.attacks_to_run = list(phases)
    theirs, _ = library.run_standard_evaluation(x, y, batch_size=len(x))
    robust = torch.ones(len(x), dtype=torch.bool)
    counts = []
    for phase in phases:
        survivors = robust.nonzero()[:, 0]
        adv = run(phase, model, x[survivors], y[survivors], threat)
        newly_broken = broken(model, adv, y[survivors])
        if phase != "fab-t":
            assert torch.equal(adv[newly_broken], theirs[survivors[newly_broken]]), phase
        robust[survivors[newly_broken]] = False
        counts.append(int(robust.sum()))
    assert torch.equal(broken(model, theirs, y), ~robust)
    assert 0 < counts[-1] < counts[0] < len(x), "the stages break some images and leave some"


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.6"), ("L2", "5")])
def test_square_equals_that_of_the_library(norm: Norm, eps: str) -> None:
    """Epsilon is so large that Square ends early; the slow cascade above has robust images."""
    model, x, y = digits()
    threat = parse_threat(norm, eps)
    library = AutoAttack(model, norm=norm, eps=threat.radius, seed=7, version="standard")
    library.attacks_to_run = ["square"]
    theirs, _ = library.run_standard_evaluation(x, y, batch_size=len(x))
    adv = run("square", model, x, y, threat)
    assert broken(model, adv, y).all()
    assert torch.equal(adv, theirs)


@pytest.mark.parametrize("classes", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", NORMS)
def test_few_classes(classes: int, norm: Norm) -> None:
    """All stages but Square, which does not depend on the number of classes, on easy and hard images."""
    model, x, y = digits(classes)
    for eps in ("0.9", "0.0001"):
        threat = parse_threat(norm, eps if norm == "Linf" else str(10 * float(eps)))
        for phase in PHASES[:3]:
            adv = run(phase, model, x[:5], y[:5], threat, classes)
            newly_broken = broken(model, adv, y[:5])
            skipped = classes == 2 and phase == "apgd-t"
            assert bool(newly_broken.all()) == (eps == "0.9" and not skipped)
            assert torch.equal(adv[~newly_broken], x[:5][~newly_broken]), (
                "robust images are returned unchanged"
            )


def test_three_classes_use_the_untargeted_dlr_loss() -> None:
    model, x, y = digits(3)
    threat = parse_threat("Linf", "0.2")
    library = AutoAttack(model, norm="Linf", eps=0.2, seed=7, version="standard")
    library.apgd.loss = "dlr"
    with torch.no_grad():
        expected = library.apgd.perturb(x, y)
    assert torch.equal(run("apgd-t", model, x, y, threat, 3), expected)


@pytest.mark.parametrize(
    ("phase", "classes", "note"),
    [
        ("apgd-t", 10, ""),
        ("fab-t", 10, ""),
        ("apgd-ce", 2, ""),
        ("square", 2, ""),
        ("apgd-t", 4, "3 targets instead of 9: there are 4 classes"),
        ("fab-t", 3, "2 targets instead of 9: there are 3 classes"),
        ("apgd-t", 3, "untargeted DLR loss: the targeted one needs four classes"),
        ("apgd-t", 2, "left out: the DLR loss needs three classes"),
        ("fab-t", 2, "1 target instead of 9: there are 2 classes"),
    ],
)
def test_notes_describe_the_effect_of_few_classes(phase: str, classes: int, note: str) -> None:
    assert attacks.note(attacks.spec(phase, "autoattack", {"phase": phase}), classes) == note


@pytest.mark.parametrize(
    ("phase", "classes", "forwards", "backwards"),
    [
        ("apgd-ce", 10, 102, 101),
        ("apgd-t", 10, 919, 909),
        ("fab-t", 10, 1829, 900),
        ("square", 10, 5003, 0),
        ("apgd-t", 100, 919, 909),
        ("apgd-t", 4, 307, 303),
        ("apgd-t", 3, 102, 101),
        ("apgd-t", 2, 0, 0),
        ("fab-t", 2, 205, 100),
    ],
)
def test_costs(phase: str, classes: int, forwards: int, backwards: int) -> None:
    cost = attacks.cost(attacks.spec(phase, "autoattack", {"phase": phase}), classes)
    assert (cost.forwards, cost.backwards) == (forwards, backwards)


@pytest.mark.parametrize("norm", NORMS)
def test_images_of_fab_are_in_the_ball(norm: Norm) -> None:
    model, x, y = digits()
    threat = parse_threat(norm, "0.25" if norm == "Linf" else "1.5")
    adv = run("fab-t", model, x, y, threat)
    assert broken(model, adv, y).sum() > 10
    assert norms.in_ball(norms.distance(adv, x, norm), threat).all()


def test_enlarged_perturbations_of_fab_stay_in_the_ball() -> None:
    x = torch.full((3, 1, 2, 2), 0.5)
    sizes = torch.tensor([0.05, 0.0999, 0.1])
    found = x + sizes.view(-1, 1, 1, 1)
    threat = parse_threat("Linf", "0.1")

    class Threshold(nn.Module):
        """Class 1 above 0.5, except for class 0 between 0.59995 and 0.59999."""

        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            one = ((mean > 0.5) & ~((mean > 0.59995) & (mean < 0.59999))).float()
            return torch.stack([1 - one, one], 1)

    moved = autoattack._past_the_boundary(Threshold(), x, torch.zeros(3, dtype=torch.long), found, threat)
    assert torch.allclose((moved - x).amax((1, 2, 3)), torch.tensor([0.0505, 0.1, 0.1]), atol=1e-6)


@pytest.mark.parametrize("sides", [(4, 4), (8, 8), (12, 12), (13, 13), (24, 24), (28, 28), (28, 5), (12, 3)])
def test_square_in_l2_is_refused_on_images_that_the_library_cannot_tile(sides: tuple[int, int]) -> None:
    """The refused sizes are those on which the first step of the library fails."""
    threat, square = parse_threat("L2", "0.5"), attacks.spec("square", "autoattack", {"phase": "square"})
    model = nn.Sequential(nn.Flatten(), nn.Linear(sides[0] * sides[1], 4)).requires_grad_(False)
    model[1].bias[0] = 100.0  # correct on every image, else nothing would be attacked
    library = SquareAttack(model, norm="L2", eps=0.5, n_queries=1, loss="margin", device="cpu", seed=0)
    try:
        library.perturb(torch.rand(2, 1, *sides), torch.zeros(2, dtype=torch.long))
    except (RuntimeError, ZeroDivisionError):
        with pytest.raises(
            UserError, match=r"cannot place its tiles on images of .* Choose a suite without square"
        ):
            attacks.refuse_impossible(square, threat, sides)
    else:
        attacks.refuse_impossible(square, threat, sides)
    attacks.refuse_impossible(square, parse_threat("Linf", "0.1"), sides)


def test_warnings_of_the_library_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """With constant logits the library warns of zero gradients."""

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(len(x), -1) + 0 * x.sum()

    x, y = torch.rand(2, 1, 5, 5), torch.zeros(2, dtype=torch.long)
    assert torch.equal(run("apgd-t", Constant(), x, y, parse_threat("Linf", "0.1"), 4), x)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_the_git_release_is_preferred_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert autoattack._distribution() == "pyautoattack"
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(name=name, version="0.1"))
    assert autoattack._distribution() == "autoattack"


def test_the_git_release_is_called_with_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Standard:
        def __init__(self, model: nn.Module, **settings: Any) -> None:
            seen.update(settings, model=model)
            self.square = SimpleNamespace(perturb=lambda x, y: x + 0 * y.sum())

    module = ModuleType("autoattack")
    module.AutoAttack = Standard  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "autoattack", module)
    monkeypatch.setattr(autoattack, "LIBRARY", "autoattack")
    model, x, y = digits()
    run("square", model, x, y, parse_threat("Linf", "8/255"))
    assert (seen["norm"], seen["eps"], seen["seed"], seen["version"]) == ("Linf", 8 / 255, 7, "standard")
    assert (seen["device"], seen["verbose"], seen["model"]) == (x.device, False, model)
