"""Random directions in weight space, shared by all checkpoints of one architecture.

A direction is raw Gaussian noise that depends only on its number and the seed. It is scaled to each model's
own weights when it is used, so that the landscapes of two models do not differ because of the draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from robust_eval.core import regular_file, seeds, strict_safetensors
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, create_folder, report_write_errors
from robust_eval.models.architectures import Shapes
from robust_eval.models.loading.state_dict_diff import compare, shapes_of

Vector = Mapping[str, Tensor]
"""A displacement of the perturbable weights: one tensor per parameter name."""

_FORMAT = {"format": "robust-eval directions", "version": "1"}


def perturbable_weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters with more than one dimension, by name; only these are perturbed.

    Biases, BatchNorm's scale and shift, and running statistics stay fixed (Li et al. 2018, ``biasbn``; in
    Algorithm 1 of Wu et al. 2020 only filters are perturbed).
    """
    return {name: p.detach() for name, p in network.named_parameters() if p.dim() > 1}


def filter_normalised(raw: Vector, weights: Vector) -> Vector:
    """d_lj <- d_lj / norm(d_lj) * norm(w_lj) for filter j of layer l (Li et al. 2018, section 4).

    A filter is a slice along the first dimension: an output channel of a convolution, a row of a matrix.
    """
    return {name: _scaled(raw[name], weight, per_filter=True) for name, weight in weights.items()}


def tensor_normalised(raw: Vector, weights: Vector) -> Vector:
    """d_l <- d_l / norm(d_l) * norm(w_l) for layer l: the size of AWP (Wu et al. 2020, Eq. 8 to 10)."""
    return {name: _scaled(raw[name], weight, per_filter=False) for name, weight in weights.items()}


def _scaled(direction: Tensor, weight: Tensor, *, per_filter: bool) -> Tensor:
    # The weight's memory layout makes the later addition fast.
    direction = torch.empty_like(weight).copy_(direction)
    dims = tuple(range(1 if per_filter else 0, weight.dim()))
    length = direction.double().pow(2).sum(dims, keepdim=True).sqrt()
    wanted = weight.double().pow(2).sum(dims, keepdim=True).sqrt()
    # A slice of zeros has no direction and gives zeros.
    factor = torch.where(length > 0, wanted / length.clamp_min(1e-300), torch.zeros_like(length))
    return direction.mul_(factor.to(direction.dtype))


@dataclass(frozen=True, eq=False)
class Directions:
    """``count`` raw directions for networks whose perturbable weights have these shapes."""

    shapes: Shapes
    count: int
    seed: int
    stored: Mapping[str, Tensor] | None = None
    """Tensors of a direction file, by ``NUMBER/NAME``; None: drawn from the seed."""
    origin: str = ""
    """Text that identifies the directions, part of a scan's identity."""

    def raw(self, number: int) -> Vector:
        """Direction ``number`` (from 0), float32 on the CPU, equal on every call."""
        if self.stored is not None:
            return {name: self.stored[_key(number, name)] for name in self.shapes}
        return {name: _gaussian(shape, self.seed, number, name) for name, shape in self.shapes.items()}


def random_directions(shapes: Shapes, count: int, seed: int) -> Directions:
    """Directions d ~ N(0, 1) per weight, determined by the seed, their number and the tensors' names."""
    return Directions(shapes, count, seed, None, f"normal, seed {seed}")


def _gaussian(shape: tuple[int, ...], seed: int, number: int, name: str) -> Tensor:
    generator = torch.Generator().manual_seed(seeds.derive(seed, "direction", str(number), name))
    return torch.randn(shape, generator=generator)


def _key(number: int, name: str) -> str:
    return f"{number}/{name}"


def save_directions(path: Path, directions: Directions) -> None:
    """Write raw directions as safetensors, to share them between scans.

    Raises :class:`UserError` if the file cannot be written.
    """
    tensors = {
        _key(number, name): tensor.contiguous()
        for number in range(directions.count)
        for name, tensor in directions.raw(number).items()
    }
    metadata = {**_FORMAT, "count": str(directions.count), "drawn": directions.origin}
    with report_write_errors(path.parent):
        create_folder(path.parent)
        with atomic(path) as file:
            file.write(to_bytes(tensors, metadata))


def load_directions(path: Path, shapes: Shapes, count: int, model: str) -> Directions:
    """The first ``count`` directions of a file, for networks with these shapes.

    ``model``: label of such a network, for error messages. Raises :class:`UserError` if the file is no
    direction file, has fewer directions, has values that are not finite, or belongs to another architecture.
    """
    with strict_safetensors.opened(path) as file:
        if any(file.metadata.get(name) != value for name, value in _FORMAT.items()):
            raise UserError(
                f"{path} is not a direction file of robust-eval. Name a direction file, or a new file to "
                "write."
            )
        tensors = {key: torch.from_numpy(file.array(key)) for key in file.tensors}
    stored = len({key.partition("/")[0] for key in tensors})
    if stored < count:
        raise UserError(f"{path} has {stored} directions, but {count} are needed: use --directions {stored}.")
    for number in range(count):
        start = f"{number}/"
        own = {key.removeprefix(start): part for key, part in tensors.items() if key.startswith(start)}
        difference = compare(shapes, shapes_of(own))
        if not difference.exact:
            raise UserError(
                f"{path} has directions for another model than {model}: {difference}. Name a file that does "
                "not exist yet to write new directions to it."
            )
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(f"{path} has directions that are not finite. Name a new file to draw others.")
    digest = regular_file.sha256(path, "direction files", strict_safetensors.LARGEST)
    return Directions(shapes, count, 0, tensors, f"file with sha256 {digest}")


def cosine(one: Vector, other: Vector) -> float:
    """Cosine of the angle between two directions; near 0 for random ones."""

    def inner(a: Vector, b: Vector) -> float:
        return sum(float((a[name].double() * b[name].double()).sum()) for name in a)

    return inner(one, other) / max(math.sqrt(inner(one, one) * inner(other, other)), 1e-300)
