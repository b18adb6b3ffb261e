"""Probes leave the images alone, and measure saturation in the norm of the threat model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robust_eval import evaluate
from robust_eval.evaluation.checks.probes import Conditions, probe, probe_job
from robust_eval.results import flags
from robust_eval.verification.selftest.base_networks import SmallNetwork
from robust_eval.verification.selftest.cases_unmodified import trained_job
from robust_eval.verification.selftest.planted_purifiers import (
    DifferencePurifier,
    FunctionalPurifier,
    Purifier,
    ThreadedPurifier,
)


class WritesIntoInput(nn.Module):
    """Darkens the images in place, and passes them on."""

    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(0.5)
        logits: Tensor = trained_job().model(2 * x)
        return logits


def test_a_model_that_writes_into_its_input_does_not_change_the_images() -> None:
    job = replace(trained_job(), model=WritesIntoInput())
    before = job.x_NCHW.clone()
    probe_job(job)
    assert torch.equal(job.x_NCHW, before)


class Plane(nn.Module):
    """Two classes beside a plane; at a distance d the logits differ by 2 ``slope`` d."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        w = torch.nn.functional.normalize(torch.arange(1.0, 65.0), dim=0)
        self.register_buffer("w", w)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        z = self.slope * ((x - 0.5).flatten(1) @ self.w)
        return torch.stack([z, -z], 1)


@pytest.mark.parametrize(
    ("threat", "gap", "expected"),
    [("L2 0.4", 20, False), ("L2 0.4", 75, True), ("Linf 0.05", 75, False), ("Linf 0.05", 200, True)],
)
def test_logits_saturate_earlier_in_l2(threat: str, gap: float, expected: bool) -> None:
    """The gradient is about exp(-gap): its square underflows from 44 on, itself from 88 on."""
    model = Plane(gap)
    distances = torch.linspace(0.02, 0.5, 60)[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    x = 0.5 + (distances[:, None] * model.w).view(-1, 1, 8, 8)
    result = evaluate(model, x, torch.zeros(60).long(), threat, "fgsm")
    found = {flag.id for flag in result.flags} - {"too-few-examples", "attack-without-effect"}
    assert found == ({"saturated-logits"} if expected else set())
    if threat.startswith("L2"):
        assert result.columns["fgsm"].n_robust == int((distances > 0.4).sum())
    assert flags.RULES["saturated-logits"].severity == flags.WARNS


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Purifier, True), (FunctionalPurifier, True), (ThreadedPurifier, True), (DifferencePurifier, False)],
)
def test_calls_of_autograd_are_seen_in_every_thread(kind: type[Purifier], expected: bool) -> None:
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    assert probe(kind(SmallNetwork()), x, y, Conditions(quick=True)).optimises == expected
    assert torch.autograd._engine_run_backward is engine  # type: ignore[attr-defined]
