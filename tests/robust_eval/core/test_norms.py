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


def test_small_gradients_are_scaled_by_a_power_of_two() -> None:
    shape = torch.tensor([1.0, -0.3, 0.007, 0.0]).view(1, 1, 2, 2)
    sizes = torch.tensor([1e-7, 1e-20, 1e-36, 1e-41, 1e-3, 0.0, float("inf")]).view(-1, 1, 1, 1)
    gradient = sizes * shape
    scaled = norms.scale_small_gradients(gradient)
    assert torch.equal(scaled[4], gradient[4])
    assert torch.equal(scaled[5], torch.zeros(1, 2, 2))
    assert torch.equal(scaled[6].isnan(), gradient[6].isnan())
    largest = norms.norm_per_image(scaled[:3], "Linf")
    assert ((largest >= 0.5) & (largest < 1)).all()
    for one, before in zip(scaled[:3], gradient[:3], strict=True):
        factors = (one / before)[before != 0].double().log2()
        assert (factors == factors[0]).all()
        assert factors[0] == factors[0].round()
    # A denormal entry has few bits, but its direction remains.
    torch.testing.assert_close(
        torch.nn.functional.normalize(scaled[3].flatten(), dim=0),
        torch.nn.functional.normalize(shape.flatten(), dim=0),
        rtol=0.01,
        atol=1e-3,
    )
