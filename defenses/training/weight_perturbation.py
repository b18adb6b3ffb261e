"""Adversarial and random weight perturbation, in place on the model's own weights.

AWP (Wu, Xia, Wang 2020), Eq. 7-11 and Algorithm 2. The authors compute v as the update of a second
network, a copy that takes one optimiser step in every batch. The direction of that update is the
gradient's, so here v is computed from the gradient, without the second network and without the rounding
error of a difference of nearly equal weights. As in their code, tensors with more than one dimension are
perturbed (no biases, no BatchNorm), each relative to its own norm. They choose those named ``weight``; here
other names count too, as those of parametrised weights, which makes no difference for their networks.

It works with any objective:

    with perturbation.scope():                            # on exit the weights are restored bit for bit
        perturbation.ascend(loss)                         # w -> w + v
        loss().backward()                                 # gradients at w + v
        perturbation.add_decay_of_perturbation(decay_of)  # weight decay acts on w + v too
    optimiser.step()

The authors step at w+v and subtract v afterwards: (w+v) - lr*u - v, with u the optimiser's update
from the gradient and the weight decay at w+v. That equals w - lr*u up to the rounding of adding and
subtracting v. Here w is restored from its copy before the step, which avoids that rounding and leaves
w unchanged if the step raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from defenses.recipes.sections import Perturbation
from robust_eval.core.errors import UserError

Reduce = Callable[[Sequence[Tensor]], None]
"""Averages gradients, or random directions, over processes, in place."""


def perturbed_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Trainable tensors with more than one dimension that are no biases, also those of parametrised weights.

    Convolutions and linear layers, including the classifier; a tensor that several layers share is one.
    """
    return [
        parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and parameter.dim() > 1 and not _is_bias(name)
    ]


def _is_bias(name: str) -> bool:
    """Whether a parameter is a bias, as ``bias``, ``bias_hh_l0`` or ``parametrizations.bias.original``."""
    return any(part.startswith("bias") for part in name.split(".")[-2:])


class WeightPerturbation:
    """Perturbs the network's weights inside ``scope``; the only memory it needs is one copy of them."""

    def __init__(self, network: nn.Module, config: Perturbation, reduce: Reduce | None = None) -> None:
        active = config.kind != "none" and config.gamma > 0
        self.parameters: list[Tensor] = list(perturbed_parameters(network)) if active else []
        self.config = config
        self._reduce = reduce
        if active and not self.parameters:
            raise UserError(
                "The network has no trainable tensor with more than one dimension, so there is nothing to "
                "perturb. Train it with a recipe without weight perturbation, or set perturbation.kind=none."
            )
        self._share = sum(p.numel() for p in self.parameters) / max(
            sum(p.numel() for p in network.parameters() if p.requires_grad), 1
        )
        self._order = 1 if config.size == "L1" else 2
        self._saved: list[Tensor] = []

    @property
    def note(self) -> str:
        """How much of the network is perturbed; '' without perturbation."""
        if not self.parameters:
            return ""
        return f"{len(self.parameters)} weight tensors are perturbed, {self._share:.1%} of the parameters"

    @contextmanager
    def scope(self) -> Iterator[None]:
        """On exit, also after an exception, every perturbed weight has exactly its former value."""
        try:
            yield
        finally:
            if self._saved:
                with torch.no_grad():
                    torch._foreach_copy_(self.parameters, self._saved)
                self._saved = []

    def ascend(self, loss: Callable[[], Tensor]) -> None:
        """One alternation: update v by K2 steps along the gradient of ``loss`` (AWP) or a random draw (RWP).

        ``loss`` is evaluated at the current weights, so a second alternation continues from the first.
        """
        if not self.parameters:
            return
        if self.config.kind == "rwp":
            drawn = [torch.randn_like(p) for p in self.parameters]
            if self._reduce is not None:
                # Averaged before normalisation: averaging the processes' v would shrink the perturbation.
                self._reduce(drawn)
            self._move(drawn, self.config.gamma)
            return
        fraction = float(self.config.step_size) or 1 / (self.config.alternations * self.config.steps)
        for _ in range(self.config.steps):
            # A tensor that the loss does not depend on (the unused block of TRADES' network) gets v = 0.
            gradients = torch.autograd.grad(loss(), self.parameters, allow_unused=True)
            directions = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(self.parameters, gradients, strict=True)
            ]
            if self._reduce is not None:
                self._reduce(directions)
            self._move(directions, self.config.gamma * fraction)

    @torch.no_grad()
    def _move(self, directions: list[Tensor], size: float) -> None:
        """w+v <- w+v + size * norm(w) * d / norm(d), then project v to norm(v) <= gamma * norm(w); Eq. 10."""
        if not self._saved:
            self._saved = [p.clone() for p in self.parameters]
        lengths, weights = self._norms(directions), self._norms(self._saved)
        tiny = torch.finfo(weights[0].dtype).tiny
        scales = [
            torch.where(d > tiny, size * w / d.clamp_min(tiny), torch.zeros_like(d))
            for w, d in zip(weights, lengths, strict=True)
        ]
        torch._foreach_mul_(directions, scales)
        torch._foreach_add_(self.parameters, directions)
        if self._may_exceed_gamma():
            self._project(weights)

    def _norms(self, tensors: list[Tensor]) -> Sequence[Tensor]:
        """The norm of each tensor; with ``global`` that of all tensors together, for each of them."""
        norms = torch._foreach_norm(tensors, self._order)
        if self.config.size != "global":
            return norms
        return [torch.linalg.vector_norm(torch.stack(list(norms)))] * len(norms)

    def _may_exceed_gamma(self) -> bool:
        """Steps of the default size add up to at most gamma (triangle inequality), so need no projection."""
        return float(self.config.step_size) * self.config.alternations * self.config.steps > 1

    def _project(self, weights: Sequence[Tensor]) -> None:
        """Project v onto the sphere norm(v) = gamma * norm(w) if it is outside; Eq. 8."""
        differences = torch._foreach_sub(self.parameters, self._saved)
        lengths = self._norms(list(differences))
        for p, saved, v, length, weight in zip(
            self.parameters, self._saved, differences, lengths, weights, strict=True
        ):
            p.copy_(saved).add_(v * (self.config.gamma * weight / length.clamp_min(1e-30)).clamp_max(1.0))

    @torch.no_grad()
    def add_decay_of_perturbation(self, decay_of: Callable[[Tensor], float]) -> None:
        """Add decay * v to the gradients, so that weight decay acts on w+v as in the authors' code.

        The optimiser adds decay * w itself after the weights are restored. Eq. 11 has no decay term.
        """
        for parameter, saved in zip(self.parameters, self._saved, strict=False):  # empty if not perturbed
            decay = decay_of(parameter)
            if decay and parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=decay).sub_(saved, alpha=decay)
