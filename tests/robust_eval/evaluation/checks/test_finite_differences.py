"""Gradients of another function are found wherever attacks use them; those of unmodified networks agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.threat import parse_threat
from robust_eval.evaluation.checks import finite_differences
from robust_eval.evaluation.checks.probes import Conditions, probe, probe_job
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.prepare import with_first_images
from robust_eval.results import flags
from robust_eval.verification.selftest.base_networks import ModifiedNetwork, SmallNetwork
from robust_eval.verification.selftest.cases_unmodified import trained_job
from robust_eval.verification.selftest.planted_gradients import with_gradient

Change = Callable[[Tensor, Tensor], Tensor]
"""(gradient_NCHW, x_NCHW) to the gradient that is returned."""


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        ctx.change = change
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient, *ctx.saved_tensors), None


class Lying(nn.Module):
    """The trained network with another gradient."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.network, self.change = trained_job().model, change

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(Backward.apply(x, self.change))
        return logits


class Preprocessed(nn.Module):
    """The trained network on changed images, with the identity as the gradient of the change."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = trained_job().model, change

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + (self.change(x) - x).detach())
        return logits


def quantile(gradient: Tensor, q: float) -> Tensor:
    return gradient.abs().flatten(1).quantile(q, dim=1).view(-1, 1, 1, 1)


def on_grid(x: Tensor) -> Tensor:
    return ((255 * x).round() / 255 - x).abs().flatten(1).amax(1).view(-1, 1, 1, 1) < 1e-6


def half_of_the_images(x: Tensor) -> Tensor:
    return (x.flatten(1).double().sum(1) * 1000 % 1 < 0.5).view(-1, 1, 1, 1)


def noise(gradient: Tensor) -> Tensor:
    return torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1))


def few_pixels(gradient: Tensor, _x: Tensor) -> Tensor:
    return gradient * (torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.05)


def blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, [1] * 4, mode="reflect"), 3, 1)


LYING: dict[str, nn.Module] = {
    "in a few pixels": Lying(few_pixels),
    "in the largest entries": Lying(lambda g, x: g * (g.abs() >= quantile(g, 0.8))),
    "small entries negated": Lying(lambda g, x: torch.where(g.abs() >= quantile(g, 0.8), g, -g)),
    "shifted by a pixel": Lying(lambda g, x: g.roll(1, 3)),
    "clipped": Lying(lambda g, x: g.clamp(-quantile(g, 0.5), quantile(g, 0.5))),
    "signs only": Lying(lambda g, x: g.sign()),
    "of half of the images": Lying(lambda g, x: torch.where(half_of_the_images(x), g, g.flip(3))),
    "without a blur": Preprocessed(blurred),
    "without coarse rounding": Preprocessed(lambda x: (4 * x).round() / 4),
}


def raised(model: nn.Module, *, quick: bool = False, **options: str) -> dict[str, str]:
    """Flag to figure of a model on the images of the trained network."""
    job = replace(trained_job(**options), model=model)
    found = probe_job(with_first_images(job, 8), quick=True) if quick else probe_job(job)
    return {flag.id: flag.figure for flag in flags.from_probe(found)}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", LYING)
def test_gradients_of_another_function_are_found(name: str, quick: bool) -> None:
    found = raised(LYING[name], quick=quick)
    assert "cosine" in found["misleading-gradients"]
    assert flags.RULES["misleading-gradients"].severity == flags.BLOCKS


class RightForMargins(ModifiedNetwork):
    """The right gradient for losses of two logits; for cross-entropy that of the next class."""

    def change_output(self, z: Tensor) -> Tensor:
        def of_the_next_class(gradient: Tensor) -> Tensor:
            two = (gradient != 0).sum(1, keepdim=True) <= 2
            return torch.where(two, gradient, gradient.roll(1, 1))

        return with_gradient(z, of_the_next_class)


@pytest.mark.parametrize("quick", [False, True])
def test_gradients_that_are_right_for_margins_only_are_found(quick: bool) -> None:
    job = replace(trained_job(), model=RightForMargins(trained_job().model))
    found = probe_job(with_first_images(job, 8) if quick else job, quick=quick)
    assert found.cosine.images > 0.95
    assert found.cosine.loss < 0.5
    assert {flag.id for flag in flags.from_probe(found)} == {"misleading-gradients"}


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.1"), ("L2", "0.5"), ("Linf", "1/255")])
@pytest.mark.parametrize("quick", [False, True])
def test_gradients_that_are_right_at_clean_images_only_are_found(norm: str, eps: str, quick: bool) -> None:
    """The pixels of these images are multiples of 1/255; points of the ball are not."""
    off = Lying(lambda g, x: torch.where(on_grid(x), g, noise(g)))
    job = with_first_images(replace(trained_job(norm=norm, eps=eps), model=off), 8 if quick else 360)
    found = probe_job(job, quick=quick)
    assert found.cosine.images > 0.95
    assert found.cosine.ball < 0.6
    # In the corners of a ball of 1/255 the pixels are multiples of 1/255 again.
    assert found.cosine.path < 0.6 or eps == "1/255"
    assert {flag.id for flag in flags.from_probe(found)} == {"misleading-gradients"}


def test_gradients_that_are_right_near_the_images_only_are_found() -> None:
    clean = trained_job().x_NCHW

    def near_only(gradient: Tensor, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.flatten(1), clean.flatten(1), p=float("inf")).amin(1)
        return torch.where((nearest < 0.099).view(-1, 1, 1, 1), gradient, noise(gradient))

    found = probe_job(replace(trained_job(), model=Lying(near_only))).cosine
    assert found.images > 0.95
    assert found.path < 0.6


def test_gradients_of_a_single_image_are_checked() -> None:
    """With one wrong image of 16 the cosine of all remains above 0.9."""
    first = trained_job().x_NCHW[:1]

    def one(gradient: Tensor, x: Tensor) -> Tensor:
        near = (x - first).abs().flatten(1).amax(1).view(-1, 1, 1, 1) < 0.11
        return torch.where(near, gradient.flip(3), gradient)

    found = raised(Lying(one))
    assert found["misleading-gradients"].endswith("with finite differences at one of the images")


@pytest.mark.parametrize(
    "change", [lambda g, x: g if len(x) <= 32 else noise(g), lambda g, x: g if len(x) <= 32 else 0 * g]
)
def test_gradients_that_are_right_in_small_batches_only_are_found(change: Change) -> None:
    found = raised(Lying(change))
    assert list(found) == ["misleading-gradients"]
    assert "in batches of 120" in found["misleading-gradients"]


class OnlySmallBatches(nn.Module):
    """Its outputs carry no gradient in batches of more than 32 images."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = trained_job().model(x)
        return logits if len(x) <= 32 else logits.detach()


def test_gradients_that_are_missing_in_large_batches_are_found() -> None:
    assert raised(OnlySmallBatches())["misleading-gradients"].startswith("cosine 0.00")


class Attention(nn.Module):
    """A small vision transformer for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 24, 2, 2)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, 24))
        layer = nn.TransformerEncoderLayer(24, 4, 48, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.layers(tokens).mean(1))
        return logits


def convolutional(norm: Callable[[int], nn.Module], activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        norm(16),
        activation(),
        nn.Conv2d(16, 32, 3, 2, 1),
        norm(32),
        activation(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


UNMODIFIED: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm, ReLU": lambda: convolutional(nn.BatchNorm2d, nn.ReLU),
    "BatchNorm, LeakyReLU": lambda: convolutional(nn.BatchNorm2d, nn.LeakyReLU),
    "GroupNorm, SiLU": lambda: convolutional(lambda width: nn.GroupNorm(4, width), nn.SiLU),
    "GroupNorm, GELU": lambda: convolutional(lambda width: nn.GroupNorm(4, width), nn.GELU),
    "Softplus": lambda: convolutional(lambda _width: nn.Identity(), nn.Softplus),
    "attention": Attention,
}


@pytest.fixture(scope="module", params=[*UNMODIFIED, "trained adversarially"])
def unmodified(request: pytest.FixtureRequest) -> Job:
    """A network that was trained for some seconds, in place of the trained one."""
    if request.param not in UNMODIFIED:
        return trained_job()
    torch.manual_seed(0)
    model, images = UNMODIFIED[request.param](), trained_job()
    x, y = images.x_NCHW[180:], images.y_N[180:]
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        batch = torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimiser.step()
    return replace(images, model=model.eval().requires_grad_(False))


@pytest.mark.parametrize(
    ("logits", "norm"),
    [
        (1.0, "Linf"),
        (1.0, "L2"),
        (1e-4, "L2"),
        (1e4, "Linf"),
        pytest.param(1e-4, "Linf", marks=pytest.mark.slow),
        pytest.param(1e4, "L2", marks=pytest.mark.slow),
    ],
)
def test_gradients_of_unmodified_networks_agree(unmodified: Job, norm: str, logits: float) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scaled: Tensor = logits * unmodified.model(x)
            return scaled

    threat = parse_threat(norm, "0.1" if norm == "Linf" else "0.5")
    conditions = Conditions(threat, unmodified.x_NCHW, (120, 7))
    found = probe(Scaled().eval(), unmodified.x_NCHW[:32], unmodified.y_N[:32], conditions)
    assert found.cosine.lowest[0] > 0.95
    assert {flag.id for flag in flags.from_probe(found)} <= {"saturated-logits"}
    quick = probe(Scaled().eval(), unmodified.x_NCHW[:8], unmodified.y_N[:8], replace(conditions, quick=True))
    assert quick.cosine.lowest[0] > 0.93


@pytest.mark.parametrize("quick", [False, True])
def test_fine_rounding_with_the_identity_as_gradient_agrees(quick: bool) -> None:
    """BPDA: at the scale of epsilon these gradients are right."""
    found = raised(Preprocessed(lambda x: (255 * x).round() / 255), quick=quick)
    assert set(found) == {"discontinuous"}


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_the_cosine_of_a_linear_model_is_measured(angle: float) -> None:
    """The claimed gradient is the true one, rotated; both are dense, so that all directions count alike."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double().requires_grad_(False)
    x, y = torch.full((16, 1, 8, 8), 0.5, dtype=torch.float64), torch.zeros(16, dtype=torch.int64)
    at = finite_differences.slopes(model, x, y)
    assert at is not None
    unit = F.normalize(at.gradient_NCHW.flatten(1), dim=1)
    other = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).double()
    other = F.normalize(other - (other * unit).sum(1, keepdim=True) * unit, dim=1)
    turn = torch.tensor(angle)
    claimed = (turn.cos() * unit + turn.sin() * other).view_as(x)
    ((dense, _), (right, small)) = finite_differences.agreements(
        model, at, [claimed, at.gradient_NCHW], pairs=64, seed=0
    )
    assert dense.cosine == pytest.approx(float(turn.cos()), abs=0.1)
    assert right.cosine == pytest.approx(1)
    assert small.cosine == pytest.approx(1)


def test_a_constant_model_has_no_cosine() -> None:
    class Constant(SmallNetwork):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x) + torch.arange(10.0)

    x, y = trained_job().x_NCHW[:16], trained_job().y_N[:16]
    found = finite_differences.gradient_cosines(Constant().eval(), x, y, trained_job().request.threat, x, 16)
    assert found.lowest[0] == 1
