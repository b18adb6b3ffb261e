"""Sides "torchattacks" and "foolbox": their PGD-20, unmodified, in the environment of peer_environment.py.

Started by ``python -m benchmarks``; the first argument is the library.
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import torch
from torch import Tensor, nn

from benchmarks.evaluation.side import SEED, Measured, Stopwatch, arguments, bits, inputs, judged
from benchmarks.options import guarded

STEPS = 20


def torchattacks(model: nn.Module, x: Tensor, y: Tensor, eps: float, size: int) -> Tensor:
    import torchattacks

    attack = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=STEPS, random_start=True)
    pairs = zip(torch.split(x, size), torch.split(y, size), strict=True)
    return torch.cat([attack(images, labels) for images, labels in pairs])


def foolbox(model: nn.Module, x: Tensor, y: Tensor, eps: float, size: int) -> Tensor:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=STEPS, random_start=True)
    pairs = zip(torch.split(x, size), torch.split(y, size), strict=True)
    return torch.cat([attack(wrapped, images, labels, epsilons=eps)[1] for images, labels in pairs])


def main() -> None:
    name = sys.argv.pop(1)
    given = arguments(__doc__)
    attack = {"torchattacks": torchattacks, "foolbox": foolbox}[name]
    model, x, y = inputs(given.folder, given.device)
    eps, size = float(Fraction(given.eps)), given.batch_size
    __import__(name)
    torch.manual_seed(SEED)
    stopwatch, start = Stopwatch(), time.perf_counter()
    robust = judged(model, x, y, size) & judged(model, attack(model, x, y, eps, size), y, size)
    stopwatch.write(given.out, {"pgd-20": Measured(bits(robust), time.perf_counter() - start)})


if __name__ == "__main__":
    guarded(main)
