"""Datasets of labelled images, one file per dataset; the file stem is the dataset id.

A dataset file defines ``load(argument, root, split) -> ImageSet`` and ``ARGUMENT``: the placeholder of the
text after the colon (``DIR`` for ``folder:DIR``), or None without one. A file with ``OPTIONS`` (how they are
written) and without ``ARGUMENT`` receives the text after a question mark instead. ``SPLITS``: the splits, if
they are not train and test. No registration is needed. May import ``core``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import pixels
from robust_eval.core.discovery import module, module_ids
from robust_eval.core.download import user_cache
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.pixels import Pixels, StoredPixels
from robust_eval.core.types import Slice

if TYPE_CHECKING:
    from torch import Tensor

    from robust_eval.core.float_images import Images

Split = Literal["train", "test", "val"]
SHUFFLED = "shuffled, seed 0"
LARGEST_BYTES = 16 * 2**30
"""Pixels that are held in memory at once, at most."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images ``x_NHWC`` (uint8) with labels ``y_N`` (int64, indices into ``class_names``)."""

    name: str
    """The dataset id; ``folder:NAME`` and ``npz:FILE`` contain only the last component of the path."""
    split: str
    """``train``, ``test`` or ``val``; ``all`` if the source has no splits."""
    x_NHWC: Pixels
    """Read when they are needed if they are many."""
    y_N: NDArray[np.int64]
    class_names: tuple[str, ...]
    order: str = "stored"
    all_classes: bool = True
    """False if the source does not name its classes: the network may then have more outputs than classes."""

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.y_N)

    @property
    def channels(self) -> int:
        return int(self.x_NHWC.shape[3])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.x_NHWC.shape[1]), int(self.x_NHWC.shape[2])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def fits(self, outputs: int) -> bool:
        """Whether a network with this number of outputs can be evaluated on these labels."""
        return outputs == self.classes or (not self.all_classes and outputs > self.classes)

    def refuse_misfit(self, outputs: int, model: str) -> None:
        """Raise :class:`UserError` if ``model`` (a name) cannot be evaluated on these labels."""
        if self.fits(outputs):
            return
        why = f"{model} has {outputs} classes, but {self.name} has"
        if self.all_classes:
            raise UserError(f"{why} {self.classes}. Choose the data it was trained on with --data.")
        if self.classes - 1 == outputs and self.y_N.min() == 1:
            raise UserError(
                f"{model} has the classes 0 to {outputs - 1}, but the labels of {self.name} run from 1 to "
                f"{outputs}. Number them from 0: save y - 1."
            )
        raise UserError(
            f"{why} the label {self.classes - 1}. Number the classes from 0 to {outputs - 1}, or choose the "
            "data it was trained on with --data."
        )

    def for_outputs(self, outputs: int) -> ImageSet:
        """The same images; further classes of the network are named by their index."""
        more = range(self.classes, outputs) if self.fits(outputs) else ()
        return replace(self, class_names=(*self.class_names, *map(str, more)))

    def take(self, n: int) -> ImageSet:
        """The first ``n`` images.

        Raises:
            UserError: if ``n`` is below 1 or above the number of images.
        """
        if n < 1:
            raise UserError(f"The number of examples must be at least 1, got {n}.")
        if n > self.n:
            raise UserError(
                f"Asked for {n} examples, but {self.name} ({self.split}) has {self.n}. "
                f"Ask for {self.n} or fewer."
            )
        return self._part(slice(n))

    def subset(self, indices: NDArray[np.int64]) -> ImageSet:
        """The images at ``indices``, in that order."""
        return self._part(indices)

    def _part(self, key: slice | NDArray[np.int64]) -> ImageSet:
        part = pixels.chosen(self.x_NHWC, key)
        return replace(self, x_NHWC=part, y_N=self.y_N[key])

    def held(self) -> ImageSet:
        """The same, with few images decoded once and kept in memory."""
        return replace(self, x_NHWC=pixels.held(self.x_NHWC))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """``x_NCHW`` (float32 in [0, 1]) and ``y_N`` (int64), contiguous, on the CPU: all of them in memory.

        Raises:
            UserError: for images of more than LARGEST_BYTES.
        """
        import torch

        from robust_eval.core.float_images import to_floats

        return to_floats(self.in_memory()), torch.from_numpy(self.y_N.copy())

    def images(self) -> tuple[Images, Tensor]:
        """Like :meth:`tensors`, but many images are read when they are needed."""
        import torch

        from robust_eval.core.float_images import images_of

        return images_of(self.x_NHWC), torch.from_numpy(self.y_N.copy())

    def in_memory(self) -> NDArray[np.uint8]:
        """All pixels as an array. Raises :class:`UserError` for more than LARGEST_BYTES."""
        if not isinstance(self.x_NHWC, StoredPixels):
            return self.x_NHWC
        if self.x_NHWC.nbytes > LARGEST_BYTES:
            raise UserError(
                f"{self.name} has more than {LARGEST_BYTES >> 30} GiB of pixels, which this needs in memory. "
                "Use fewer images."
            )
        return self.x_NHWC[:]

    def slice(self) -> Slice:
        """Identify the images."""
        found = fingerprint(self.x_NHWC, self.y_N)
        return Slice(self.name, self.split, self.n, found, self.class_names, self.order)


def fingerprint(x_NHWC: Pixels, y_N: NDArray[np.int64]) -> str:
    """SHA-256 of shape, dtype, pixels and labels."""
    digest = hashlib.sha256(f"{x_NHWC.shape} uint8 int64".encode())
    for part in pixels.parts(x_NHWC):
        digest.update(np.ascontiguousarray(part).data)
    digest.update(np.ascontiguousarray(y_N, dtype="<i8").data)
    return digest.hexdigest()


def default_root() -> Path:
    """The data root: ``ROBUST_EVAL_DATA``, or ``~/.cache/robust-eval``."""
    return user_cache("ROBUST_EVAL_DATA")


def load(spec: str, *, root: Path | None = None, split: Split = "test") -> ImageSet:
    """Load a dataset by its spec, such as ``digits``, ``mnist``, ``folder:DIR`` or ``npz:FILE``.

    Sources that are sorted by class are shuffled with seed 0, so that the first n images contain all
    classes; ``order`` records this. ``root`` is the folder of downloaded files.

    Raises:
        UserError: for an unknown dataset or split, and for files that cannot be read.
    """
    name, argument, options = _split(spec)
    if name not in module_ids(__name__):
        hint = _path_hint(spec)
        raise UserError(hint) if hint else unknown("dataset", name, module_ids(__name__))
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    dataset = module(__name__, name)
    known = getattr(dataset, "OPTIONS", "")
    if dataset.ARGUMENT and not argument:
        raise UserError(f"{name} needs an argument: write {name}:{dataset.ARGUMENT}.")
    if argument and not dataset.ARGUMENT:
        raise UserError(f"{name} takes no argument: write {name} without the colon.")
    if options and not known:
        raise UserError(f"{name} takes no options: write {name} without the question mark.")
    splits = getattr(dataset, "SPLITS", ("train", "test"))
    if split not in splits:
        raise UserError(f"{name} has no split {split}. Use {' or '.join(splits)}.")
    images: ImageSet = dataset.load(argument or options, (root or default_root()).expanduser(), split)
    return _shuffle_if_sorted(images).held()


def _split(spec: str) -> tuple[str, str, str]:
    """(name, argument, options) of ``name:argument`` or ``name?options``; an argument keeps its own ones."""
    end = next((index for index, letter in enumerate(spec) if letter in ":?"), len(spec))
    name, rest = spec[:end], spec[end + 1 :]
    return (name, "", rest) if spec[end : end + 1] == "?" else (name, rest, "")


def _path_hint(spec: str) -> str | None:
    """A suggestion for a path that lacks its prefix, else None."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return f"'{spec}' is a folder. Did you mean folder:{spec}?"
    # A colon, other than of a drive of Windows, follows a prefix that is misspelt.
    if path.suffix == ".npz" and ":" not in spec[2:]:
        return f"'{spec}' is a file name. Did you mean npz:{spec}?"
    return None


def _shuffle_if_sorted(images: ImageSet) -> ImageSet:
    """Shuffle with seed 0 if labels form one run per class, or far fewer runs than in random order."""
    changes = np.count_nonzero(np.diff(images.y_N))
    counts = np.unique(images.y_N, return_counts=True)[1]
    present = len(counts)
    # The expected number of label changes between neighbours in a random order.
    expected = (images.n**2 - int((counts**2).sum())) / max(images.n, 1)
    if present < 2 or images.n == present or (changes + 1 != present and 4 * changes >= expected):
        return images
    # The stream of RandomState is the same in all numpy versions; that of Generator is not.
    order = np.random.RandomState(0).permutation(images.n)
    return replace(images.subset(order), order=SHUFFLED)
