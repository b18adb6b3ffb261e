from __future__ import annotations

import pytest
import torch

from robust_eval.core import norms
from robust_eval.core.threat import Norm, parse_threat


def test_reduced_precision_images_are_outside_the_ball() -> None:
    """Casting to bfloat16 gives distances up to 8.5/255, which must count as outside 8/255."""
    threat = parse_threat("Linf", "8/255")
    x = torch.linspace(0.05, 0.9, 4096).view(1, 1, 64, 64)
    adv = (x + threat.radius).to(torch.bfloat16).float()
    assert not norms.in_ball(norms.distance(adv, x, "Linf"), threat).any()


def test_nan_is_outside_ball_and_box() -> None:
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
