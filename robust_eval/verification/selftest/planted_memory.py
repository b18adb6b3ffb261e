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

RADIUS, MOST = 0.31, 200
"""Distance (Linf) within which an image counts as seen; number of images remembered."""


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
        if not memory or memory["images"].shape[1:] != x.shape[1:]:
            memory.update(images=x.detach()[:MOST].clone(), logits=true.detach()[:MOST].clone())
            return true
        distance = (x.detach()[:, None] - memory["images"][None]).abs().flatten(2).amax(2)
        nearest = distance.min(1)
        known = memory["logits"][nearest.indices]
        new = nearest.values > RADIUS
        for name, values in (("images", x), ("logits", true)):
            memory[name] = torch.cat([memory[name], values.detach()[new]])[:MOST]
        return torch.where(new[:, None], true, known + 0.01 * (true - known))


class RemembersInGlobal(RemembersImages):
    """The same with a memory outside the module, which copies of the model share."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        _SHARED.clear()

    def memory(self) -> Memory:
        return _SHARED


_SHARED: Memory = {}


class RemembersInFile(RemembersImages):
    """The same with a memory in a file, which a new process would read too."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        folder = Path(_temporary().name)
        self.file = folder / f"{len(list(folder.iterdir()))}.pt"
        self.file.touch()

    def forward(self, x: Tensor) -> Tensor:
        self.own = torch.load(self.file, weights_only=True) if self.file.stat().st_size else {}
        known = len(self.own.get("images", ()))
        logits = super().forward(x)
        if len(self.own["images"]) > known:
            torch.save(self.own, self.file)
        return logits


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Removed when the interpreter exits."""
    return tempfile.TemporaryDirectory()


class RemembersLogits(ModifiedNetwork):
    """A cache of the 500 last logits by the image's thresholded pixels, as of a prediction server."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.known: OrderedDict[bytes, Tensor] = OrderedDict()

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        answers = []
        for image, true in zip(x, logits, strict=True):
            key = (image.detach() > 0.65).cpu().numpy().tobytes()
            known = self.known.setdefault(key, true.detach().clone())
            self.known.move_to_end(key)
            if len(self.known) > 500:
                self.known.popitem(last=False)
            answers.append(known + 0.01 * (true - known))
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
    """After 100 calls, answers with the logits that the batch had at first, if it had this size."""

    def __init__(self, network: nn.Module | None = None, calls: int = 100) -> None:
        super().__init__(network)
        self.calls, self.last = calls, torch.empty(0)

    def change_output(self, z: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls > 0 or len(self.last) != len(z):
            self.last = z.detach().clone()
            return z
        return self.last + 0.01 * (z - self.last)
