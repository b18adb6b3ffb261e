"""An adaptive attack on planted models: it knows the undefended network, and that the model may be random.

Candidates come from PGD through the undefended network (transfer), from PGD with the model's outputs and the
network's derivative (BPDA, Athalye et al. 2018), and from PGD on the model itself, each from several starts,
with averaged gradients for random models (EoT). The result is an upper bound of the robust accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_eval.core.logits import margin

DRAWS = 10
"""Forward passes that a random model must survive, and over which gradients are averaged."""
STEPS, STARTS = 40, 3
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdaptiveAttack:
    """A model, the network on which it is built, and the images that are attacked."""

    build: Callable[[nn.Module], nn.Module]
    network: nn.Module
    x_NCHW: Tensor
    y_N: Tensor
    eps: float
    """Linf."""

    def robust(self) -> Tensor:
        """The examples (N,) that are classified correctly before and after every attack, in every draw.

        A new model judges each set of candidates; one that remembers images has not seen the clean ones.
        """
        draws = DRAWS if self.is_random() else 1
        robust = self._right(self.x_NCHW, draws)
        for adv_NCHW in self._candidates(draws):
            if not robust.any():
                break
            robust &= self._right(adv_NCHW, draws)
        return robust

    @torch.no_grad()
    def is_random(self) -> bool:
        """Whether new models give different logits for the same images."""
        torch.manual_seed(0)
        first = self._new()(self.x_NCHW.clone()).clone()
        torch.manual_seed(1)
        return not torch.allclose(first, self._new()(self.x_NCHW.clone()), atol=1e-3, rtol=1e-3)

    def _new(self) -> nn.Module:
        return self.build(self.network).eval()

    @torch.no_grad()
    def _right(self, x_NCHW: Tensor, draws: int) -> Tensor:
        """Whether each image is classified correctly in every draw (N,)."""
        right = torch.ones(len(x_NCHW), dtype=torch.bool)
        for seed in range(draws):
            torch.manual_seed(seed)
            logits = self._new()(x_NCHW.clone())
            right &= (logits.argmax(1) == self.y_N) & logits.isfinite().all(1)
        return right

    def _candidates(self, draws: int) -> Iterator[Tensor]:
        """Adversarial images, most successful kinds first."""
        classes = self.network(self.x_NCHW[:1]).shape[1]
        yield from (self._pgd(self.network, seed) for seed in range(STARTS))
        yield from (self._pgd(self._smoothed, seed) for seed in range(STARTS))
        for offset in range(1, classes):
            yield self._pgd(self.network, offset, target=(self.y_N + offset) % classes)
        model = self._new()
        if not self._differentiable(model):
            model = self._new()
            yield from (self._pgd(self._bpda(model), seed, draws) for seed in range(STARTS))
            return
        for logits in (self._bpda(model), lambda x: model(x.clone())):
            yield from (self._pgd(logits, seed, draws) for seed in range(STARTS))

    def _smoothed(self, x_NCHW: Tensor) -> Tensor:
        """Logits of the network averaged over noise, whose adversarial images transfer better."""
        noisy = [x_NCHW + 0.05 * torch.randn_like(x_NCHW) for _ in range(5)]
        return torch.stack([self.network(one) for one in noisy]).mean(0)

    def _bpda(self, model: nn.Module) -> Logits:
        """The model's logits, with the derivative of the network."""

        def logits(x_NCHW: Tensor) -> Tensor:
            surrogate: Tensor = self.network(x_NCHW)
            with torch.no_grad():
                true: Tensor = model(x_NCHW.detach().clone())[:, : surrogate.shape[1]]
            return surrogate + (true - surrogate).detach()

        return logits

    def _differentiable(self, model: nn.Module) -> bool:
        try:
            return bool(model(self.x_NCHW.clone().requires_grad_() * 1).requires_grad)
        except RuntimeError:
            return False

    def _pgd(self, logits: Logits, seed: int, draws: int = 1, target: Tensor | None = None) -> Tensor:
        """PGD on the margin, or on the lead of the target class, from a random start; the last iterate."""
        torch.manual_seed(seed)
        x, eps = self.x_NCHW, self.eps
        adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for step in range(STEPS):
            with torch.enable_grad():
                leaf = adv.clone().requires_grad_()
                total = torch.zeros(())
                for _ in range(draws):
                    z = logits(leaf)
                    total = (
                        total + (margin(z, self.y_N) if target is None else _lead(z, self.y_N, target)).sum()
                    )
                (gradient,) = torch.autograd.grad(total, leaf)
            size = 2 * eps * max(0.05, 1 - step / STEPS) / 5
            adv = (x + (adv - size * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
        return adv


def _lead(z: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of the label minus that of the target class (N,)."""
    return z.gather(1, y[:, None])[:, 0] - z.gather(1, target[:, None])[:, 0]
