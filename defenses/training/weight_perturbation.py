"""Adversarial and random weight perturbation, in place on the model's own weights.

AWP (Wu, Xia, Wang 2020), Eq. 7-11 and Algorithm 2. The authors find v with a second network that is
overwritten and stepped in every batch; the direction it ends up with is the gradient's, so here v
is built from the gradient itself, without the second network and without the rounding of a
difference of nearly equal weights. What is perturbed and how far follows their code: tensors named
``weight`` with more than one dimension (not biases, not BatchNorm's), each relative to its own norm.

The piece wraps any objective and knows none:

    with perturbation.scope():                       # on leaving: the weights, bit for bit
        perturbation.ascend(loss)                    # w -> w + v
        loss().backward()                            # gradients at w + v
        perturbation.carry_decay(decay_of)           # weight decay acts on w + v too
    optimiser.step()

The authors step at w+v and subtract v afterwards: (w+v) - lr*u - v, with u the optimiser's update
from the gradient and the weight decay at w+v. That is w - lr*u, up to the rounding of adding and
subtracting v. Here w is restored from its copy first and then stepped, so v leaves no rounding
behind, and a step that raises leaves w as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from defenses.recipes.sections import Perturbation

Reduce = Callable[[Sequence[Tensor]], None]
"""Averages gradients, or random directions, over processes, in place."""


def perturbed_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Multi-dimensional ``weight`` tensors: convolutions and linear layers, the classifier included."""
    return [
        parameter
        for name, parameter in network.named_parameters()
        if "weight" in name.rsplit(".", 1)[-1] and parameter.dim() > 1 and parameter.requires_grad
    ]


class WeightPerturbation:
    """Perturbs the network's weights inside ``scope``; keeps one copy of them there and nothing else."""

    def __init__(self, network: nn.Module, config: Perturbation, reduce: Reduce | None = None) -> None:
        active = config.kind != "none" and config.gamma > 0
        self.parameters: list[Tensor] = list(perturbed_parameters(network)) if active else []
        self.config = config
        self._reduce = reduce
        self._order = 1 if config.size == "L1" else 2
        self._saved: list[Tensor] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        """On leaving, also by an exception, every perturbed weight is exactly what it was."""
        try:
            yield
        finally:
            if self._saved:
                with torch.no_grad():
                    torch._foreach_copy_(self.parameters, self._saved)
                self._saved = []

    def ascend(self, loss: Callable[[], Tensor]) -> None:
        """One turn: K2 steps (AWP, along the gradient of ``loss``) or a random draw (RWP) on v.

        ``loss`` is evaluated at the weights as they stand, so a second turn continues from the first.
        """
        if not self.parameters:
            return
        if self.config.kind == "rwp":
            drawn = [torch.randn_like(p) for p in self.parameters]
            if self._reduce is not None:
                # The mean of several draws is one too; of its own v's, each process would perturb less.
                self._reduce(drawn)
            self._move(drawn, self.config.gamma)
            return
        fraction = float(self.config.step_size) or 1 / (self.config.alternations * self.config.steps)
        for _ in range(self.config.steps):
            # A tensor the loss does not reach (TRADES' unused block) gets no gradient and no v.
            found = torch.autograd.grad(loss(), self.parameters, allow_unused=True)
            directions = [
                torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)
            ]
            if self._reduce is not None:
                self._reduce(directions)
            self._move(directions, self.config.gamma * fraction)

    @torch.no_grad()
    def _move(self, directions: list[Tensor], size: float) -> None:
        """w+v <- w+v + size * norm(w) * d / norm(d), then v back to at most gamma * norm(w); Eq. 10."""
        if not self._saved:
            self._saved = [p.clone() for p in self.parameters]
        lengths = torch._foreach_norm(directions, self._order)
        weights = torch._foreach_norm(self._saved, self._order)
        tiny = torch.finfo(weights[0].dtype).tiny
        scales = [
            torch.where(d > tiny, size * w / d.clamp_min(tiny), torch.zeros_like(d))
            for w, d in zip(weights, lengths, strict=True)
        ]
        torch._foreach_mul_(directions, scales)
        torch._foreach_add_(self.parameters, directions)
        if self._may_leave():
            self._project(weights)

    def _may_leave(self) -> bool:
        """The default steps add up to gamma at most (triangle inequality): nothing to project."""
        return float(self.config.step_size) * self.config.alternations * self.config.steps > 1

    def _project(self, weights: Sequence[Tensor]) -> None:
        """v onto the sphere norm(v) = gamma * norm(w) where it lies outside; Eq. 8."""
        differences = torch._foreach_sub(self.parameters, self._saved)
        lengths = torch._foreach_norm(differences, self._order)
        for p, saved, v, length, weight in zip(
            self.parameters, self._saved, differences, lengths, weights, strict=True
        ):
            p.copy_(saved).add_(v * (self.config.gamma * weight / length.clamp_min(1e-30)).clamp_max(1.0))

    @torch.no_grad()
    def carry_decay(self, decay_of: Callable[[Tensor], float]) -> None:
        """Add decay * v to the gradients, so that weight decay acts on w+v as in the authors' code.

        The optimiser adds decay * w itself once the weights are back. Eq. 11 has no decay term.
        """
        for parameter, saved in zip(self.parameters, self._saved, strict=False):  # none saved: not perturbed
            decay = decay_of(parameter)
            if decay and parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=decay).sub_(saved, alpha=decay)
