"""Logits that depend on the batch are found at every batch size that a run uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robust_eval.attacks import _spsa
from robust_eval.evaluation.checks import batch_probe
from robust_eval.evaluation.checks.probes import probe_job
from robust_eval.evaluation.prepare import with_first_images
from robust_eval.results import flags
from robust_eval.verification.selftest.cases_unmodified import trained_job

CPU = torch.device("cpu")


class Changed(nn.Module):
    """The trained network with a change of its logits (N, K)."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = trained_job().model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.network(x))


def from_size(n: int) -> Callable[[Tensor], Tensor]:
    return lambda z: z - z.mean(0) if len(z) >= n else z


def batch_figure(model: nn.Module, suite: str = "clean", *, quick: bool = False) -> str:
    """The figure of the flag of a model on the images of the trained network; '' if it is not raised."""
    job = replace(trained_job(suite), model=model)
    found = probe_job(with_first_images(job, 8), quick=True) if quick else probe_job(job)
    return {flag.id: flag.figure for flag in flags.from_probe(found)}.get("batch-dependent", "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (from_size(62), "a batch of 120 and single images differ by"),
        (from_size(41), "a batch of"),
        (from_size(120), "a batch of 120 and single images differ by"),
        (lambda z: z - z.mean(0) if len(z) % 2 else z, "a batch of 61 and single images differ by"),
        (lambda z: z - z.mean(0) if len(z) < 10 else z, "a batch of 7 and single images differ by"),
        (lambda z: z + 0.01 * z[-1], "a batch of"),
        (lambda z: z + 0.01 * torch.arange(len(z))[:, None], "a batch of 120"),
        (lambda z: z + 0.1 * (z[0] - z[1]) if len(z) == 120 else z, "a batch of 120"),
    ],
)
def test_dependence_on_the_batch_is_found(change: Callable[[Tensor], Tensor], expected: str) -> None:
    assert batch_figure(Changed(change)).startswith(expected)


def test_queries_of_spsa_are_probed_if_the_suite_contains_it() -> None:
    large = Changed(from_size(1000))
    assert batch_figure(large) == ""
    assert batch_figure(large, "spsa").startswith("a batch of 8192")


def test_a_quick_probe_uses_batches_of_the_run_too() -> None:
    assert batch_figure(Changed(from_size(41)), quick=True).startswith("a batch of 120")
    assert batch_figure(trained_job().model, quick=True) == ""


def test_a_quick_probe_of_a_large_network_uses_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_eval.evaluation.checks.probes._QUICK_OPERATIONS", 1e6)
    found = probe_job(with_first_images(trained_job(), 8), quick=True)
    assert (found.batch_size, found.cosine.batch_size) == (8, 8)


def test_the_sizes_of_a_run() -> None:
    request = replace(trained_job("spsa").request, batch_size=100)
    assert batch_probe.sizes(request, CPU, 64) == [100, 60, 51, 7, 8192]
    # The attack copy passes slices of 42 CIFAR images, or of 168 at most, to a network on a CPU.
    assert batch_probe.sizes(request, CPU, 3072) == [100, 60, 51, 7, 168, 42]
    assert batch_probe.sizes(replace(request, batch_size=1000), CPU, 64) == [360, 181, 7, 8192]
    assert batch_probe.sizes(replace(request, batch_size=1), CPU, 64)[0] == 1
    assert batch_probe.sizes(trained_job().request, CPU, 64) == [120, 61, 7]


def test_the_largest_call_of_spsa() -> None:
    """One image with few samples is a smaller call than a batch with the default number."""
    job = trained_job("spsa")
    rows = _spsa.rows_per_call(CPU, 64)
    seen: list[int] = []

    def scores(x: Tensor) -> Tensor:
        seen.append(len(x))
        return job.model(x)

    settings = _spsa.SPSASettings(
        norm="Linf", radius=0.1, iterations=1, samples=256, delta=0.001, learning_rate=0.01
    )
    _spsa.attack(scores, job.x_NCHW[:120], job.y_N[:120], settings, seed=0)
    assert max(seen) == rows == batch_probe.sizes(job.request, CPU, 64)[-1]
