"""One side of the training benchmark, in a process of its own: seconds and peak memory per step."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from benchmarks.side import peak_mib
from benchmarks.two_networks import TwoNetworks
from defenses import optimiser
from defenses.resolve import Choices, resolve
from defenses.step import Step
from robust_eval import models
from robust_eval.models.normalised import NORMALISATIONS, Normalised


def ours(
    given: argparse.Namespace, network: nn.Module, device: torch.device
) -> Callable[[Tensor, Tensor], object]:
    """The project's own step, as ``defenses train`` runs it."""
    sets = (f"inner.steps={given.attack_steps}",)
    recipe = resolve("at-awp" if given.awp else "at", Choices(data="cifar10", sets=sets)).recipe
    network.to(memory_format=torch.channels_last)
    model = Normalised(network, NORMALISATIONS["cifar10"]).to(device)
    step = Step(recipe, model, optimiser.build(network, recipe.optimiser), lambda: autocast(given, device))
    return lambda x, y: step(
        x.contiguous(memory_format=torch.channels_last), y, budget=1.0, perturb=bool(given.awp)
    )


def theirs(
    given: argparse.Namespace, network: nn.Module, device: torch.device
) -> Callable[[Tensor, Tensor], object]:
    model = Cast(Normalised(network, NORMALISATIONS["cifar10"]).to(device), given, device)
    gamma = 0.01 if given.awp else 0.0
    return TwoNetworks(model, eps=8 / 255, step=2 / 255, steps=given.attack_steps, gamma=gamma)


class Cast(nn.Module):
    """Each forward under an autocast of its own, whose cache of cast weights ends with it."""

    def __init__(self, model: nn.Module, given: argparse.Namespace, device: torch.device) -> None:
        super().__init__()
        self.model, self.given, self.device = model, given, device

    def forward(self, x: Tensor) -> Tensor:
        with autocast(self.given, self.device):
            logits: Tensor = self.model(x)
        return logits.float()


def autocast(given: argparse.Namespace, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if given.precision == "bf16" else nullcontext()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["ours", "two-networks"], required=True)
    parser.add_argument("--awp", action="store_true")
    parser.add_argument("--precision", choices=["32", "bf16"], required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--attack-steps", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--device", required=True)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.manual_seed(0)
    network = models.build(given.arch, classes=10, channels=3, image_size=(32, 32)).to(device)
    x = torch.rand(given.batch_size, 3, 32, 32, device=device)
    y = torch.arange(given.batch_size, device=device) % 10
    step = (ours if given.side == "ours" else theirs)(given, network, device)
    seconds = []
    for _ in range(given.repeats + 1):
        started, busy = time.perf_counter(), time.process_time()
        step(x, y)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - started, time.process_time() - busy))
    wall, cpu = zip(*seconds[1:], strict=True)  # the first step allocates
    weights = sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mib()
    report = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    print(json.dumps(report | {"peak_mib": peak, "weights_mib": weights}))


if __name__ == "__main__":
    main()
