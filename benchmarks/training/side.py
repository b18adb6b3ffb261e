"""Measure time, memory and operations of a training step of one side.

Sides: ``ours``, ``ours-compiled``, and ``two-networks`` (the formulation of the AWP authors). Started by
``python -m benchmarks.training.step``, one process per side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.evaluation import matrix_rate
from benchmarks.evaluation.side import peak_mib
from benchmarks.options import guarded
from benchmarks.training.two_network_awp import TwoNetworks
from defenses.recipes.choices import Choices
from defenses.recipes.resolve import resolve
from defenses.training import optimiser
from defenses.training.step import TrainingStep
from robust_eval.models import architectures
from robust_eval.models.normalisation import NORMALISATIONS, Normalised

TakeStep = Callable[[Tensor, Tensor], object]
COUNTED = 2
"""Batch size of the step whose operations are counted; operations are proportional to it."""


def ours(given: argparse.Namespace, network: nn.Module, device: torch.device, compiled: bool) -> TakeStep:
    """The training step of ``defenses train``."""
    sets = (f"inner.steps={given.attack_steps}",)
    recipe = resolve("at-awp" if given.awp else "at", Choices(data="cifar10", sets=sets)).recipe
    network.to(memory_format=torch.channels_last)
    model = Normalised(network, NORMALISATIONS["cifar10"]).to(device)
    step = TrainingStep(
        recipe,
        model,
        optimiser.build_optimiser(network, recipe.optimiser),
        lambda: autocast(given, device),
        compiled_batch_size=given.batch_size if compiled else None,
    )
    return lambda x, y: step(
        x.contiguous(memory_format=torch.channels_last), y, epsilon_fraction=1.0, perturb=bool(given.awp)
    )


def theirs(given: argparse.Namespace, network: nn.Module, device: torch.device, compiled: bool) -> TakeStep:
    """The training step with two networks."""
    model = Cast(Normalised(network, NORMALISATIONS["cifar10"]).to(device), given, device)
    gamma = 0.01 if given.awp else 0.0
    return TwoNetworks(model, eps=8 / 255, step=2 / 255, steps=given.attack_steps, gamma=gamma)


class Cast(nn.Module):
    """Runs each forward pass in its own autocast context, so that cast weights are not cached longer."""

    def __init__(self, model: nn.Module, given: argparse.Namespace, device: torch.device) -> None:
        super().__init__()
        self.model, self.given, self.device = model, given, device

    def forward(self, x: Tensor) -> Tensor:
        with autocast(self.given, self.device):
            logits: Tensor = self.model(x)
        return logits.float()


def autocast(given: argparse.Namespace, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if given.precision == "bf16" else nullcontext()


class Count(TorchDispatchMode):
    """Counts operations of matrix products by torch's formulas; torch's counter rejects ``autograd.grad``."""

    total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=found)
        return found


def operations(step: TakeStep, x: Tensor, y: Tensor, rows: int) -> float:
    """Floating-point operations of a step on ``rows`` images."""
    with Count() as count:  # type: ignore[no-untyped-call]
        step(x[:COUNTED], y[:COUNTED])
    return float(count.total * rows / COUNTED)


def reached(
    given: argparse.Namespace, device: torch.device, operations: float, wall: float, cpu: float
) -> float:
    """Speed of the step as a fraction of the machine's matrix rate, measured in this process and precision.

    Uses processor time on a CPU, where other programs may be running, else wall time.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    on_cpu = device.type == "cpu"
    rate = matrix_rate.rate(
        torch.bfloat16 if given.precision == "bf16" else torch.float32,
        device,
        side=2048 if on_cpu else 8192,
        clock=time.process_time if on_cpu else time.perf_counter,
    )
    return operations / (cpu if on_cpu else wall) / rate


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["two-networks", "ours", "ours-compiled"], required=True)
    parser.add_argument("--awp", action="store_true")
    parser.add_argument("--precision", choices=["32", "bf16"], required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--attack-steps", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--device", required=True)
    return parser.parse_args()


def main() -> None:
    given = parse()
    device = torch.device(given.device)
    torch.manual_seed(0)
    network = architectures.build(given.arch, classes=10, channels=3, image_size=(32, 32)).to(device)
    x = torch.rand(given.batch_size, 3, 32, 32, device=device)
    y = torch.arange(given.batch_size, device=device) % 10
    build = theirs if given.side == "two-networks" else ours
    step = build(given, network, device, given.side == "ours-compiled")
    counted = operations(step, x, y, given.batch_size)
    seconds = []
    for _ in range(given.repeats + 1):
        started, busy = time.perf_counter(), time.process_time()
        step(x, y)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - started, time.process_time() - busy))
    wall, cpu = (statistics.median(clock) for clock in zip(*seconds[1:], strict=True))  # the first allocates
    report = {"seconds": wall, "cpu_seconds": cpu, "first_seconds": seconds[0][0], "peak_mib": peak_mib()}
    report["weights_mib"] = sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    report |= {"operations": counted, "share": reached(given, device, counted, wall, cpu)}
    print(json.dumps(report))


if __name__ == "__main__":
    guarded(main)
