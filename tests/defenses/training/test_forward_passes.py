"""Passes in reduced precision and compiled: same results, same BatchNorm statistics, same resumed run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.small_jobs import StopAfter, make_job, run, same, weights
from torch import Tensor, nn

from defenses.training import compilation
from defenses.training.batchnorm import frozen_statistics, restored_statistics
from defenses.training.forward_passes import ForwardPasses
from defenses.training.job import TrainingJob
from defenses.training.runtime import start_runtime
from defenses.training.signals import InterruptHandler, TrainingInterrupted
from robust_eval.core.errors import UserError

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
Autocast = Callable[[], AbstractContextManager[object]]


def bf16() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
    )


def images() -> Tensor:
    return torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def slope(forward: Callable[[Tensor], Tensor]) -> Tensor:
    x = images().requires_grad_()
    (found,) = torch.autograd.grad(F.cross_entropy(forward(x), torch.arange(8) % 3), x)
    return found


@pytest.mark.parametrize("autocast", [nullcontext, bf16])
def test_passes_with_frozen_weights_are_identical_bit_for_bit(autocast: Autocast) -> None:
    passes = ForwardPasses(network(), autocast)
    for training in (True, False):
        passes.model.train(training)
        assert torch.equal(slope(passes.with_frozen_weights()), slope(passes.with_weight_gradients))
    forward = passes.with_frozen_weights()
    logits = forward(images())
    assert logits.dtype == torch.float32
    assert torch.equal(logits, passes.with_weight_gradients(images()))


def test_passes_with_frozen_weights_change_only_batchnorm_statistics() -> None:
    one, other = ForwardPasses(network().train(), bf16), ForwardPasses(network().train(), bf16)
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    one.with_frozen_weights()(images())
    other.with_weight_gradients(images())
    for mine, theirs in zip(one.model.buffers(), other.model.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in one.model.named_parameters())


def test_frozen_weights_are_those_at_the_time_of_the_call() -> None:
    passes = ForwardPasses(network().eval(), bf16)
    before = slope(passes.with_frozen_weights())
    with torch.no_grad():
        passes.model[0].weight.mul_(2)  # type: ignore[index, operator, union-attr]
    assert not torch.equal(slope(passes.with_frozen_weights()), before)
    assert torch.equal(slope(passes.with_frozen_weights()), slope(passes.with_weight_gradients))


@pytest.mark.parametrize("unchanged", [frozen_statistics, restored_statistics])
def test_passes_that_do_not_change_the_statistics(
    unchanged: Callable[[nn.Module], AbstractContextManager[None]],
) -> None:
    net = network().train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    with unchanged(net):
        inside = net(images())
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert torch.equal(net(images()), inside)
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])  # type: ignore[index]


def job_of(
    folder: Path, *sets: str, precision: str = "32", mode: str = "auto", arch: str | None = None
) -> TrainingJob:
    return make_job(folder, "at-awp", *sets, precision=precision, compile=mode, arch=arch)


def decided(job: TrainingJob) -> tuple[int | None, str]:
    return compilation.choose_compiled_batch_size(
        job, start_runtime("cpu", job.options.precision, 1), _model(job)
    )


def _model(job: TrainingJob) -> nn.Module:
    return nn.Sequential(nn.Conv2d(job.train.channels, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU())


def test_short_runs_are_not_compiled(tmp_path: Path) -> None:
    assert decided(job_of(tmp_path, precision="bf16")) == (None, "")


def test_planned_operations(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    forward = 2 * 4 * 9 * 64  # one 3x3 convolution, 8x8 pixels, four channels out
    passes = 2 * 2 + 3 + 3  # two attack steps, the weights' gradient twice
    operations = compilation.planned_operations(job, start_runtime("cpu", "32", 1), _model(job))
    assert operations == forward * passes * 64 * 2


def test_long_runs_are_compiled_if_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "MIN_OPERATIONS", {"cpu": 1.0})
    monkeypatch.setattr(compilation, "_has_tiles", lambda: True)
    monkeypatch.setattr("robust_eval.models.acceleration.compilation.unavailable_reason", lambda device: "")
    assert decided(job_of(tmp_path, precision="bf16")) == (32, "compiled: the first update takes minutes")
    assert decided(job_of(tmp_path, precision="bf16", mode="off")) == (None, "")
    assert decided(job_of(tmp_path)) == (None, "")
    assert decided(job_of(tmp_path, mode="on")) == (32, "compiled")
    monkeypatch.setattr(compilation, "_has_tiles", lambda: False)
    assert decided(job_of(tmp_path, precision="bf16")) == (None, "")
    monkeypatch.setattr(compilation, "_has_tiles", lambda: True)
    problem = "there is no C++ compiler (install g++, or set CXX)"
    monkeypatch.setattr(
        "robust_eval.models.acceleration.compilation.unavailable_reason", lambda device: problem
    )
    assert decided(job_of(tmp_path, precision="bf16")) == (None, f"not compiled: {problem}")
    with pytest.raises(UserError, match=r"not possible on this machine: there is no C\+\+ compiler"):
        job_of(tmp_path, mode="on")


def test_an_unknown_compile_mode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compile mode 'yes'"):
        job_of(tmp_path, mode="yes")


def test_a_network_that_cannot_be_compiled() -> None:
    class GraphBreak(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return super().forward(x.flatten(1))

    passes = ForwardPasses(GraphBreak(36, 3), nullcontext, compiled_batch_size=8)
    with pytest.raises(UserError, match=r"This network cannot be compiled \(.*\): use --compile off\."):
        passes.with_weight_gradients(images())


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("autocast", [nullcontext, bf16])
def test_compiled_passes_agree_with_eager_ones(autocast: Autocast) -> None:
    plain, quick = (
        ForwardPasses(network().train(), autocast),
        ForwardPasses(network().train(), autocast, compiled_batch_size=8),
    )
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if autocast is nullcontext else {"rtol": 0.1, "atol": 2e-3}
    with plain.frozen_batchnorm_stats(), quick.frozen_batchnorm_stats():
        torch.testing.assert_close(
            slope(quick.with_frozen_weights()), slope(plain.with_frozen_weights()), **tolerance
        )
        found = [
            torch.autograd.grad(
                F.cross_entropy(p.with_weight_gradients(images()), torch.arange(8) % 3),
                list(p.model.parameters()),
            )
            for p in (quick, plain)
        ]
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)
    for mine, theirs in zip(quick.model.buffers(), network().buffers(), strict=True):
        assert torch.equal(mine, theirs)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit_and_only_compiled(tmp_path: Path) -> None:
    """40 images in batches of 32: each epoch's last batch, of 8, is not compiled."""

    def job(name: str, **options: object) -> TrainingJob:
        return make_job(
            tmp_path / name, "at-awp", n=40, epochs=2, precision="bf16", **{"compile": "on", **options}
        )

    run(job("uninterrupted"))
    interrupt = InterruptHandler()
    with pytest.raises(TrainingInterrupted):
        run(job("resumed"), interrupt, StopAfter(interrupt, 1))
    with pytest.raises(UserError, match="compiled was True, now None"):
        run(job("resumed", compile="off", resume=True))
    run(job("resumed", resume=True))
    assert same(weights(tmp_path / "uninterrupted" / "last.pt"), weights(tmp_path / "resumed" / "last.pt"))
