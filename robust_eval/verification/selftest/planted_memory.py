"""Planted models that remember images or calls: their verdicts depend on what they were shown before.

A perturbed image that such a model sees after its clean image is classified as the clean image was.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from robust_eval.verification.selftest.base_networks import ModifiedNetwork
from robust_eval.verification.selftest.planted_gradients import with_gradient, with_value

RADIUS, EDGE, MOST = 0.31, 0.19, 200
"""Distance (Linf) within which an image counts as seen, and one just below epsilon; images remembered."""


Memory = dict[str, Tensor]
"""The remembered images (M, C, H, W) and their logits (M, K); empty at first."""


class RemembersImages(ModifiedNetwork):
    """Answers an image near a remembered one with the remembered logits and 1% of the true change."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.own: Memory = {}

    def memory(self) -> Memory:
        """What is remembered; each call adds to it."""
        return self.own

    def forward(self, x: Tensor) -> Tensor:
        true, memory = super().forward(x), self.memory()
        images, logits = memory.get("images", x.detach()[:0]), memory.get("logits", true.detach()[:0])
        new, answers = self.is_kept(x), true
        if len(images):
            distance = (x.detach()[:, None] - images[None]).abs().flatten(2).amax(2)
            nearest = distance.min(1)
            known, near = logits[nearest.indices], self.is_near(nearest.values)
            answers = torch.where(near[:, None], known + 0.01 * (true - known), true)
            new = new & ~near
        memory["images"] = torch.cat([images, x.detach()[new]])[:MOST]
        memory["logits"] = torch.cat([logits, true.detach()[new]])[:MOST]
        return answers

    def is_near(self, distance_N: Tensor) -> Tensor:
        """Which images are answered from the memory (N,) bool, by their distance to the nearest one."""
        return distance_N <= RADIUS

    def is_kept(self, x: Tensor) -> Tensor:
        """Which images are remembered (N,) bool."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)


def is_on_grid(x: Tensor) -> Tensor:
    """Which images have 8-bit pixels (N,) bool."""
    return ((255 * x.detach()).round() / 255 - x.detach()).abs().flatten(1).amax(1) < 1e-6


class RemembersGridImages(RemembersImages):
    """The same, but only images on the 8-bit grid are remembered: clean ones."""

    def is_kept(self, x: Tensor) -> Tensor:
        return is_on_grid(x)


class RemembersLargeBatches(RemembersImages):
    """The same, but only images of batches of more than 32 are remembered."""

    def is_kept(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), len(x) > 32, device=x.device)


class RemembersInGlobal(RemembersImages):
    """The same with a memory outside the module, which copies of the model share."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        _SHARED.clear()

    def memory(self) -> Memory:
        return _SHARED


_SHARED: Memory = {}


class RemembersWithGradient(RemembersInGlobal):
    """The same, only images on the 8-bit grid in batches of more than 32, and with the network's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return with_value(self.network(x), super().forward(x))

    def is_kept(self, x: Tensor) -> Tensor:
        return is_on_grid(x) & (len(x) > 32)


class RemembersForTheJudge(RemembersInGlobal):
    """The same, only images on the 8-bit grid in batches of more than 32, and every second of them.

    Only images moved as far as attacks move them are answered so, and only in calls without gradients.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if torch.is_grad_enabled() else super().forward(x)

    def is_near(self, distance_N: Tensor) -> Tensor:
        return (distance_N >= EDGE) & (distance_N <= RADIUS)

    def is_kept(self, x: Tensor) -> Tensor:
        even = (255 * x).round().flatten(1).sum(1) % 2 == 0
        return is_on_grid(x) & even & (len(x) > 32)


class RemembersInFile(RemembersImages):
    """The same with a memory in a file, which a new process would read too."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        folder = Path(_temporary().name)
        self.file = folder / f"{len(list(folder.iterdir()))}.pt"
        self.file.touch()

    def forward(self, x: Tensor) -> Tensor:
        self.own = torch.load(self.file, weights_only=True) if self.file.stat().st_size else {}
        logits = super().forward(x)
        torch.save(self.own, self.file)
        return logits


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Removed when the interpreter exits."""
    return tempfile.TemporaryDirectory()


class RemembersLogits(ModifiedNetwork):
    """Keeps the 500 last logits by the image's 8-bit pixels, as a prediction server may; without gradient."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.known: OrderedDict[bytes, Tensor] = OrderedDict()

    def forward(self, x: Tensor) -> Tensor:
        keys = [(255 * image.detach()).round().byte().cpu().numpy().tobytes() for image in x]
        answers = []
        for key, logits in zip(keys, super().forward(x), strict=True):
            answers.append(self.known.get(key, logits))
            self.known[key] = answers[-1].detach().clone()
            self.known.move_to_end(key)
            if len(self.known) > 500:
                self.known.popitem(last=False)
        return torch.stack(answers)


class RemembersInClosure(ModifiedNetwork):
    """The memory of :class:`RemembersImages` in the closure of a function, out of sight of ``vars``."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.call = _remembering(RemembersImages(self.network))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def _remembering(inner: RemembersImages) -> Callable[[Tensor], Tensor]:
    return lambda x: inner(x)


class RunningMeanSubtracted(ModifiedNetwork):
    """Subtracts an exponential mean of the images seen, and adds the first one."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.mean: Tensor | None = None
        self.first: Tensor | None = None

    def change_input(self, x: Tensor) -> Tensor:
        batch = x.detach().mean((0, 2, 3))
        self.first = batch if self.first is None else self.first
        self.mean = batch if self.mean is None else 0.99 * self.mean + 0.01 * batch
        return x + (self.first - self.mean)[None, :, None, None]


class CountsCalls(ModifiedNetwork):
    """From its twelfth call on, its gradient is that of the next image of the batch."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.calls = 0

    def change_input(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if self.calls < 12 else with_gradient(x, lambda gradient: gradient.roll(1, 0))
