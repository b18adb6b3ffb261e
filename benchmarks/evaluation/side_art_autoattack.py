"""Side "plain": the attacks of ART and pyautoattack, called directly, without this project.

Examples, attack settings and batch size are those of this project's columns; other options have their
defaults, without progress bars. ART has no SPSA, which is written here. An example is robust if it is
classified correctly before and after the attack. Started by ``python -m benchmarks``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from pyautoattack import AutoAttack
from torch import Tensor, nn

from benchmarks.evaluation.side import SEED, Measured, Stopwatch, arguments, bits, inputs, judged
from benchmarks.options import guarded


class Margin(nn.Module):
    """Mean of max_{k != y} z_k - z_y. ART passes one-hot labels to custom losses."""

    reduction = "mean"

    def forward(self, logits_NK: Tensor, onehot_NK: Tensor) -> Tensor:
        y_N = onehot_NK.argmax(1)
        return -margin(logits_NK, y_N).mean()


def margin(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """z_y - max_{k != y} z_k, (N,)."""
    true = logits_NK.gather(1, y_N[:, None])[:, 0]
    return true - logits_NK.scatter(1, y_N[:, None], -torch.inf).amax(1)


@torch.no_grad()
def spsa(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, eps: float, images: int = 8) -> Tensor:
    """SPSA: 100 iterations of Adam on gradient estimates from 128 antithetic pairs; ``images`` per batch."""
    pairs, delta, rate = 128, 0.001, 0.01
    found = []
    for x, y in zip(x_NCHW.split(images), y_N.split(images), strict=True):
        adv, first, second = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, 101):
            robust = model(adv).argmax(1) == y
            if not robust.any():
                break
            a, repeated = adv[robust, None], y[robust].repeat_interleave(pairs)
            r = torch.randint(0, 2, (len(a), pairs, *x.shape[1:]), device=x.device) * 2.0 - 1
            above = margin(model((a + delta * r).flatten(0, 1)), repeated)
            below = margin(model((a - delta * r).flatten(0, 1)), repeated)
            difference = ((above - below) / (2 * delta)).view(-1, pairs, 1, 1, 1)
            gradient = (difference * r).mean(1)
            first[robust] = 0.9 * first[robust] + 0.1 * gradient
            second[robust] = 0.999 * second[robust] + 0.001 * gradient**2
            update = first[robust] / (1 - 0.9**step) / ((second[robust] / (1 - 0.999**step)).sqrt() + 1e-8)
            moved = (adv[robust] - rate * update - x[robust]).clamp(-eps, eps)
            adv[robust] = (x[robust] + moved).clamp(0, 1)
        found.append(adv)
    return torch.cat(found)


def main() -> None:
    given = arguments(__doc__)
    model, x, y = inputs(given.folder, given.device)
    eps, size = float(Fraction(given.eps)), given.batch_size
    columns: dict[str, Measured] = {}

    def column(name: str, attack: Callable[[], Tensor]) -> None:
        if given.suite not in ("full", name):
            return
        start = time.perf_counter()
        robust = judged(model, x, y, size) & judged(model, attack(), y, size)
        columns[name] = Measured(bits(robust), time.perf_counter() - start)

    def classifier(loss: nn.Module) -> PyTorchClassifier:
        shape, classes = tuple(x.shape[1:]), model(x[:1]).shape[1]
        return PyTorchClassifier(model, loss, shape, classes, clip_values=(0.0, 1.0))

    def art(attack: FastGradientMethod | ProjectedGradientDescent) -> Tensor:
        np.random.seed(SEED)
        return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)

    def pgd(loss: nn.Module, steps: int) -> Tensor:
        options = {"eps_step": eps / 4, "num_random_init": 1, "batch_size": size, "verbose": False}
        return art(ProjectedGradientDescent(classifier(loss), eps=eps, max_iter=steps, **options))

    def autoattack() -> Tensor:
        suite = AutoAttack(model, norm="Linf", eps=eps, seed=SEED, device=given.device)
        adv: Tensor = suite.run_standard_evaluation(x, y, batch_size=size)[0]
        return adv

    stopwatch = Stopwatch()
    cross_entropy = nn.CrossEntropyLoss()
    column("clean", lambda: x)
    column("fgsm", lambda: art(FastGradientMethod(classifier(cross_entropy), eps=eps, batch_size=size)))
    column("pgd-20", lambda: pgd(cross_entropy, 20))
    column("pgd-100", lambda: pgd(cross_entropy, 100))
    column("cw-inf", lambda: pgd(Margin(), 100))
    torch.manual_seed(SEED)
    column("spsa", lambda: spsa(model, x, y, eps))
    column("aa", autoattack)
    stopwatch.write(given.out, columns)


if __name__ == "__main__":
    guarded(main)
