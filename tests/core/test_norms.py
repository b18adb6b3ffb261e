from __future__ import annotations

import pytest
import torch

from robust_eval.core import norms
from robust_eval.core.threat import Norm, parse_threat


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (32, 3, 8, 8), generator=generator) / 255


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "8/255"), ("Linf", "0.3"), ("L2", "128/255")])
def test_snapping_never_leaves_the_ball(images: torch.Tensor, norm: Norm, eps: str) -> None:
    threat = parse_threat(norm, eps)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    delta = norms.project(direction * 10, norm, threat.radius)
    adv = (images + delta).clamp(0, 1)
    stored = norms.unsnap(norms.snap(adv, images))
    assert norms.in_ball(norms.distance(stored, images, norm), threat).all()
    assert (norms.distance(stored, images, norm) <= norms.distance(adv, images, norm) + 1e-6).all()
    assert (stored - adv).abs().max() <= 1 / norms.GRID


def test_grid_holds_8_bit_images_and_itself(images: torch.Tensor) -> None:
    assert torch.equal(norms.unsnap(norms.snap(images, images)), images)
    levels = torch.randint(0, 65536, images.shape, dtype=torch.int32)
    stored = norms.unsnap(levels)
    assert torch.equal(norms.snap(stored, images), levels)


def test_outward_rounding_lengthens(images: torch.Tensor) -> None:
    adv = (images + 0.01 * torch.randn(images.shape)).clamp(0, 1)
    outward = norms.unsnap(norms.snap(adv, images, outward=True))
    assert (norms.distance(outward, images, "Linf") >= norms.distance(adv, images, "Linf") - 1e-7).all()


def test_reduced_precision_images_are_outside_the_ball() -> None:
    """Casting to bfloat16 exceeds 8/255 up to 8.5/255 and must be caught, not rounded away."""
    threat = parse_threat("Linf", "8/255")
    x = torch.linspace(0.05, 0.9, 4096).view(1, 1, 64, 64)
    adv = (x + threat.radius).to(torch.bfloat16).float()
    assert not norms.in_ball(norms.distance(adv, x, "Linf"), threat).any()


def test_nan_is_in_no_ball_and_no_box() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    adv = x.clone()
    adv[0, 0, 0, 0] = float("nan")
    assert not norms.in_box(adv).any()
    assert not norms.in_ball(norms.distance(adv, x, "L2"), parse_threat("L2", "1")).any()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_projection_is_the_identity_inside_and_reaches_the_sphere_outside(norm: Norm) -> None:
    inside = torch.full((1, 1, 2, 2), 0.01)
    assert torch.allclose(norms.project(inside, norm, 0.5), inside)
    outside = norms.project(torch.full((1, 1, 2, 2), 3.0), norm, 0.5)
    assert norms.norm_per_image(outside, norm).item() == pytest.approx(0.5)
