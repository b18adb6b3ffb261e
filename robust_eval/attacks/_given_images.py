"""Images of an attack that was run elsewhere, read from a file and judged like those of this package.

The file is an ``.npz`` archive with an array ``x``, or a safetensors file with a tensor ``x``: float
(N, C, H, W) in [0, 1], or uint8 (N, H, W, C). Texts ``author`` and ``paper``, arrays or metadata, are
optional.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robust_eval.core import strict_arrays, strict_safetensors
from robust_eval.core.errors import UserError
from robust_eval.core.norms import distance
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

LARGEST = 16 * 2**30
_NEAR = 2.0
"""Radii within which an image belongs to an example; beyond one radius the judge calls it invalid."""
_ROWS = 256


@dataclass(frozen=True)
class _NoSettings:
    """The images are the only parameter."""


class GivenImages:
    """The family of a file of images.

    An example gets the image of the file that is nearest to it, and stays as it is if none is near. So the
    file needs no order, and may leave out examples that its attack did not break.
    """

    VERSION = 1
    LIBRARY = "images"
    Params = _NoSettings

    def __init__(self, path: Path) -> None:
        """Raises :class:`UserError` if the file cannot be used."""
        images, said = (_of_npz if path.suffix == ".npz" else _of_safetensors)(path)
        self._x = _floats(images, path.name)
        self.CITATION = ": ".join(filter(None, said)) or f"images in {path.name}"

    def cost(self, params: Any, classes: int) -> Cost:
        """The model is not called."""
        return Cost(1, 1)

    def problem(self, params: Any, threat: ThreatModel, image_size: tuple[int, int]) -> str:
        """Why these images do not fit; '' if they do."""
        found = tuple(self._x.shape[2:])
        if found == image_size:
            return ""
        turned = tuple(self._x.shape[1:3]) == image_size
        hint = " They look like (N, H, W, C): save x.transpose(0, 3, 1, 2)." if turned else ""
        return f"The given images have {found} pixels, the data {image_size}.{hint}"

    def search(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        params: Any,
        *,
        classes: int,
        seed: int,
    ) -> Tensor:
        """The given images."""
        x = x_NCHW.cpu()
        if x.shape[1:] != self._x.shape[1:]:
            raise UserError(
                f"The given images have shape {tuple(self._x.shape[1:])}, the data {tuple(x.shape[1:])}. "
                "Save them as (N, C, H, W) in [0, 1], or as uint8 (N, H, W, C)."
            )
        parts = [self._x[_nearest(part, self._x)] for part in x.split(_ROWS)]
        found = torch.cat(parts)
        near = distance(found, x, threat.norm) <= _NEAR * threat.radius
        return torch.where(near.view(-1, 1, 1, 1), found, x).to(x_NCHW.device)


def _nearest(x_NCHW: Tensor, among_NCHW: Tensor) -> Tensor:
    """The index of the nearest of some images, for each image."""
    best = torch.full((len(x_NCHW),), float("inf"))
    index = torch.zeros(len(x_NCHW), dtype=torch.int64)
    for start in range(0, len(among_NCHW), _ROWS):
        distances = torch.cdist(x_NCHW.flatten(1), among_NCHW[start : start + _ROWS].flatten(1))
        least, where = distances.min(1)
        index = torch.where(least < best, where + start, index)
        best = torch.minimum(least, best)
    return index


def _of_npz(path: Path) -> tuple[NDArray[Any], list[str]]:
    with strict_arrays.opened_npz(path, LARGEST) as archive:
        if "x" not in archive.names:
            raise UserError(f"{path} lacks the array x: save the adversarial images as x.")
        texts = [archive.read(name) for name in ("author", "paper") if name in archive.names]
        return archive.read("x"), [str(text) for text in texts if text.dtype.kind == "U" and not text.ndim]


def _of_safetensors(path: Path) -> tuple[NDArray[Any], list[str]]:
    with strict_safetensors.opened(path) as file:
        if "x" not in file.tensors:
            raise UserError(f"{path} lacks the tensor x: save the adversarial images as x.")
        return file.array("x"), [file.metadata.get(name, "") for name in ("author", "paper")]


def _floats(x: NDArray[Any], name: str) -> Tensor:
    """Images (N, C, H, W), float32 in [0, 1]."""
    if x.ndim != 4 or 0 in x.shape:
        raise UserError(f"x in {name} has shape {x.shape}; expected (N, C, H, W), or uint8 (N, H, W, C).")
    if x.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float().div_(255)
    if x.dtype.kind != "f":
        raise UserError(f"x in {name} is {x.dtype}. Save floats in [0, 1], or uint8.")
    found = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if not found.isfinite().all():
        raise UserError(f"x in {name} contains NaN or infinity. Save the images again.")
    if found.min() < -1e-3 or found.max() > 1 + 1e-3:
        raise UserError(
            f"x in {name} runs from {found.min():.3g} to {found.max():.3g}. Save pixels in [0, 1]: undo the "
            "normalisation, or divide by 255."
        )
    return found
