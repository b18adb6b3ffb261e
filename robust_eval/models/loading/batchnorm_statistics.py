"""Compare what BatchNorm layers remember with the statistics of images, layer by layer.

A layer remembers the mean and variance of its input in training, when the layers before it normalised by the
batch. So the images are passed with batch statistics too: a difference in one layer is then not carried into
the next ones, and adversarial training moves the statistics no more than natural training does. What has no
tensors (activation, strides, input scaling) moves them where it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ENOUGH = 256
"""Channels on which two functions are compared."""
_FEW = 32
_SLICE = 64
"""Images of a call that measures the first layer alone."""
_SAME = 1e-5
_CONSTANT = 1e-5
"""Channels with a smaller variance were constant in training."""
_MOST = 3.0
"""Deviations are clipped to this many standard deviations: single channels must not decide."""


@dataclass(frozen=True)
class LayerStatistics:
    """The input of one BatchNorm layer on a batch, against what the layer remembers."""

    name: str
    deviation: Tensor
    """(2, C): shift of the mean in remembered standard deviations; logarithm of the ratio of variances,
    divided by the square root of 2. Without the channels that were constant in training."""

    @property
    def mismatch(self) -> float:
        """Mean over channels of KL(batch || remembered), to second order; at most 9."""
        channels = self.deviation.shape[1]
        return float(0.5 * self.deviation.square().sum() / channels) if channels else 0.0


class _EnoughError(Exception):
    """Ends a forward pass of which no more layers are needed."""


def has_statistics(network: nn.Module) -> bool:
    """Whether any layer remembers statistics."""
    return any(_remembers(layer) for layer in network.modules())


@torch.no_grad()
def measure(
    model: nn.Module, x_NCHW: Tensor, wanted: Callable[[LayerStatistics], bool] = lambda _: True
) -> list[LayerStatistics]:
    """The layers in the order of the forward pass; a layer that is called several times counts once.

    ``model``, in eval mode, is not changed; ``x_NCHW`` in [0, 1] needs two images or more. The pass ends
    after the first layer for which ``wanted`` is false.
    """
    found: dict[str, LayerStatistics] = {}

    def see(name: str, layer: _BatchNorm, mean_C: Tensor, variance_C: Tensor) -> None:
        if name not in found:
            found[name] = LayerStatistics(name, _deviation(layer, mean_C, variance_C))
            if not wanted(found[name]):
                raise _EnoughError

    with _observed(model, see), suppress(_EnoughError):
        model(x_NCHW)
    return list(found.values())


@torch.no_grad()
def measure_first(model: nn.Module, x_NCHW: Tensor) -> LayerStatistics | None:
    """The first layer alone; None if no layer is reached. Arguments as of :func:`measure`.

    In slices, because allocating the activations of many images takes longer than computing them.
    """
    found: list[tuple[str, _BatchNorm, Tensor, Tensor, int]] = []
    for part in x_NCHW.split(_SLICE):

        def see(name: str, layer: _BatchNorm, mean_C: Tensor, variance_C: Tensor, n: int = len(part)) -> None:
            found.append((name, layer, mean_C, variance_C, n))
            raise _EnoughError

        with _observed(model, see), suppress(_EnoughError):
            model(part)
    if not found:
        return None
    name, layer = found[0][:2]
    means = torch.stack([one[2] for one in found])
    variances = torch.stack([one[3] for one in found])
    share = torch.tensor([one[4] for one in found]).to(means).view(-1, 1) / len(x_NCHW)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return LayerStatistics(name, _deviation(layer, mean, variance))


@contextmanager
def _observed(model: nn.Module, see: Callable[[str, _BatchNorm, Tensor, Tensor], None]) -> Iterator[None]:
    """Let the layers normalise by the batch, and pass its mean and variance (with eps) to ``see``."""

    def observed(name: str, layer: _BatchNorm) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            out, mean, inverse = torch.native_batch_norm(
                x, layer.weight, layer.bias, None, None, True, 0.0, layer.eps
            )
            see(name, layer, mean, inverse.pow(-2))
            return out

        return forward

    layers = {name: layer for name, layer in model.named_modules() if _remembers(layer)}
    for name, layer in layers.items():
        assert isinstance(layer, _BatchNorm)
        layer.forward = observed(name, layer)  # type: ignore[method-assign, assignment]  # until the end
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward


def _remembers(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None


def _deviation(layer: _BatchNorm, mean_C: Tensor, variance_C: Tensor) -> Tensor:
    """``variance_C``: with eps."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    remembered = layer.running_var + layer.eps
    shift = (mean_C - layer.running_mean) / remembered.sqrt()
    ratio = (variance_C / remembered).log() / 2**0.5
    alive = layer.running_var > _CONSTANT
    return torch.stack([shift, ratio])[:, alive].nan_to_num(_MOST).clamp(-_MOST, _MOST).double().cpu()


@dataclass
class VariantComparison:
    """Two functions of the same tensors, over the layers in which they differ."""

    share: float = 0.0
    """Where the remembered statistics lie between the two: 0 at the first, 1 at the second."""
    gain: float = 0.0
    """By how much the second lowers the sum of squared deviations."""
    distance: float = 0.0
    """Sum of squared differences between the two."""
    before: float = 0.0
    """Sum of squared deviations of the first."""
    channels: int = 0

    def add(self, one: LayerStatistics, step: Tensor) -> None:
        """Count a layer of the first, unless ``step`` to the second, shaped like its deviation, is 0."""
        if not len(step) or step.abs().max() < _SAME:
            return
        other = (one.deviation + step).clamp(-_MOST, _MOST)
        self.gain += float(one.deviation.square().sum() - other.square().sum())
        self.distance += float(step.square().sum())
        self.before += float(one.deviation.square().sum())
        self.channels += step.shape[1]
        self.share = (self.gain / self.distance + 1) / 2

    @property
    def rejected(self) -> bool:
        """Whether the second is already so much worse that no later layer can matter."""
        return self.channels >= _FEW and -self.gain > 4 * self.before + 0.04 * self.channels

    @property
    def decided(self) -> bool:
        """Whether enough channels were compared."""
        return self.channels >= ENOUGH


def compare(
    base: Sequence[LayerStatistics],
    model: nn.Module,
    x_NCHW: Tensor,
    few: Sequence[LayerStatistics] | None = None,
) -> VariantComparison:
    """Compare ``base`` with another ``model``; stops when it is decided.

    ``few``: measured like ``base``, but on ``x_NCHW``, if ``base`` was measured on more images. Few suffice
    for the step from one function to the other if both have the same sampling errors.
    """
    comparison, known = VariantComparison(), {layer.name: layer for layer in base}
    on_few = known if few is None else {layer.name: layer for layer in few}

    def wanted(layer: LayerStatistics) -> bool:
        if layer.name in known:
            comparison.add(known[layer.name], layer.deviation - on_few[layer.name].deviation)
        return not (comparison.decided or comparison.rejected)

    measure(model, x_NCHW, wanted)
    return comparison
