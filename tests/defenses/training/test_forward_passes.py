"""Passes in reduced precision and compiled: the same figures, the same statistics, the same resumption."""

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
def test_frozen_passes_are_the_same_to_the_bit(autocast: Autocast) -> None:
    passes = ForwardPasses(network(), autocast)
    for training in (True, False):
        passes.model.train(training)
        assert torch.equal(slope(passes.frozen()), slope(passes.updating))
    forward = passes.frozen()
    logits = forward(images())
    assert logits.dtype == torch.float32
    assert torch.equal(logits, passes.updating(images()))


def test_frozen_passes_write_batch_norms_statistics_and_none_else() -> None:
    one, other = ForwardPasses(network().train(), bf16), ForwardPasses(network().train(), bf16)
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    one.frozen()(images())
    other.updating(images())
    for mine, theirs in zip(one.model.buffers(), other.model.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in one.model.named_parameters())


def test_frozen_passes_see_the_weights_as_they_stand_when_asked_for() -> None:
    passes = ForwardPasses(network().eval(), bf16)
    before = slope(passes.frozen())
    with torch.no_grad():
        passes.model[0].weight.mul_(2)  # type: ignore[index, operator, union-attr]
    assert not torch.equal(slope(passes.frozen()), before)
    assert torch.equal(slope(passes.frozen()), slope(passes.updating))


@pytest.mark.parametrize("still", [frozen_statistics, restored_statistics])
def test_passes_that_leave_no_trace(still: Callable[[nn.Module], AbstractContextManager[None]]) -> None:
    net = network().train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    with still(net):
        inside = net(images())
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert torch.equal(net(images()), inside)
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])  # type: ignore[index]


def job_of(
    folder: Path, *sets: str, precision: str = "32", asked: str = "auto", arch: str | None = None
) -> TrainingJob:
    return make_job(folder, "at-awp", *sets, precision=precision, compile=asked, arch=arch)


def decided(job: TrainingJob) -> tuple[int | None, str]:
    return compilation.compiled_batch_size(job, start_runtime("cpu", job.options.precision, 1), _model(job))


def _model(job: TrainingJob) -> nn.Module:
    return nn.Sequential(nn.Conv2d(job.train.channels, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU())


def test_short_work_is_not_compiled(tmp_path: Path) -> None:
    assert decided(job_of(tmp_path, precision="bf16")) == (None, "")


def test_the_planned_work_is_counted(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    forward = 2 * 4 * 9 * 64  # one 3x3 convolution, 8x8 pixels, four channels out
    passes = 2 * 2 + 3 + 3  # two attack steps, the weights' gradient twice
    found = compilation.planned(job, start_runtime("cpu", "32", 1), _model(job))
    assert found == forward * passes * 64 * 2


def test_long_work_is_compiled_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "LONG", {"cpu": 1.0})
    monkeypatch.setattr(compilation, "_has_tiles", lambda: True)
    monkeypatch.setattr("robust_eval.models.acceleration.compilation.unavailable", lambda device: "")
    assert decided(job_of(tmp_path, precision="bf16")) == (32, "compiled: the first update takes minutes")
    assert decided(job_of(tmp_path, precision="bf16", asked="off")) == (None, "")
    assert decided(job_of(tmp_path)) == (None, "")
    assert decided(job_of(tmp_path, asked="on")) == (32, "compiled")
    monkeypatch.setattr(compilation, "_has_tiles", lambda: False)
    assert decided(job_of(tmp_path, precision="bf16")) == (None, "")
    monkeypatch.setattr(compilation, "_has_tiles", lambda: True)
    problem = "there is no C++ compiler (install g++, or set CXX)"
    monkeypatch.setattr("robust_eval.models.acceleration.compilation.unavailable", lambda device: problem)
    assert decided(job_of(tmp_path, precision="bf16")) == (None, f"not compiled: {problem}")
    with pytest.raises(UserError, match=r"Compiling is not possible here: there is no C\+\+ compiler"):
        job_of(tmp_path, asked="on")


def test_unknown_compile(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compile mode 'yes'"):
        job_of(tmp_path, asked="yes")


def test_a_network_that_cannot_be_compiled() -> None:
    class Stubborn(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return super().forward(x.flatten(1))

    passes = ForwardPasses(Stubborn(36, 3), nullcontext, compiled_batch_size=8)
    with pytest.raises(UserError, match=r"This network cannot be compiled \(.*\): use --compile off\."):
        passes.updating(images())


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("autocast", [nullcontext, bf16])
def test_compiled_passes_agree(autocast: Autocast) -> None:
    plain, quick = (
        ForwardPasses(network().train(), autocast),
        ForwardPasses(network().train(), autocast, compiled_batch_size=8),
    )
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if autocast is nullcontext else {"rtol": 0.1, "atol": 2e-3}
    with plain.still(), quick.still():
        torch.testing.assert_close(slope(quick.frozen()), slope(plain.frozen()), **tolerance)
        found = [
            torch.autograd.grad(
                F.cross_entropy(p.updating(images()), torch.arange(8) % 3), list(p.model.parameters())
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

    run(job("whole"))
    stopper = InterruptHandler()
    with pytest.raises(TrainingInterrupted):
        run(job("parts"), stopper, StopAfter(stopper, 1))
    with pytest.raises(UserError, match="compiled was True, now None"):
        run(job("parts", compile="off", resume=True))
    run(job("parts", resume=True))
    assert same(weights(tmp_path / "whole" / "last.pt"), weights(tmp_path / "parts" / "last.pt"))
