"""Label unlabelled images with a trained model: the second step of RST (Carmon et al. 2019)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.runs.files import make_folder
from robust_eval import data
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic
from robust_eval.core.pixels import Pixels
from robust_eval.data import ImageSet, folder, npz
from robust_eval.models.loading import checkpoint

BATCH = 500


@dataclass(frozen=True)
class PseudoLabelSummary:
    """The written file and its statistics."""

    path: Path
    kept: int
    seen: int
    mean_confidence: float
    """Over all images seen."""
    classes: tuple[int, ...]
    """Number of kept images of each class."""


def write_pseudo_labels(
    source: str,
    spec: str,
    out: Path,
    *,
    data_root: Path | None = None,
    min_confidence: float = 0.0,
    device: str = "cpu",
) -> PseudoLabelSummary:
    """Label the images of ``spec`` with the class of highest probability; existing labels are ignored.

    Writes ``out`` as an .npz that ``--unlabelled`` and ``npz:`` read. Images whose highest probability is
    below ``min_confidence`` are left out; Carmon et al. keep all of their (pre-selected) images. Raises
    UserError if an argument is invalid, no image is left or ``out`` exists or cannot be written.
    """
    if not 0 <= min_confidence < 1:
        raise UserError(f"--min-confidence must be at least 0 and below 1, got {min_confidence}.")
    if out.suffix != ".npz":
        raise UserError(
            f"--out {out} must end in .npz: the pseudo-labelled images are written as a NumPy archive."
        )
    if out.exists():
        raise UserError(f"--out {out} exists: choose another name, or remove it first.")
    images = unlabelled_images(spec, data_root)
    target = torch.device(device)
    loaded = checkpoint.load(source, images=None, device=target)
    x_NCHW, _ = images.tensors()
    try:
        with torch.no_grad():
            probabilities = torch.cat(
                [loaded.model(part.to(target)).softmax(1).cpu() for part in torch.split(x_NCHW, BATCH)]
            )
    except RuntimeError:
        height, width = images.image_size
        raise UserError(
            f"{source} does not take the images of {spec} ({height}x{width}, {images.channels} channels): "
            "give images like those it was trained on."
        ) from None
    confidence_N, y_N = probabilities.max(1)
    kept_N = (confidence_N >= min_confidence).numpy()
    if not kept_N.any():
        raise UserError(f"No image of {spec} reaches --min-confidence {min_confidence}: lower it.")
    make_folder(out.parent)
    names = np.array([str(k) for k in range(loaded.ref.classes)])
    _write(out, images.x_NHWC[kept_N], y_N.numpy()[kept_N], names)
    counts = np.bincount(y_N.numpy()[kept_N], minlength=loaded.ref.classes)
    return PseudoLabelSummary(
        out, int(kept_N.sum()), images.n, float(confidence_N.mean()), tuple(counts.tolist())
    )


def unlabelled_images(spec: str, root: Path | None) -> ImageSet:
    """Load ``spec`` like any dataset; an archive may lack ``y``, and a folder may contain images directly."""
    scheme, _, argument = spec.partition(":")
    path = Path(argument).expanduser()
    x_NHWC: Pixels | None = None
    if scheme == "npz":
        x_NHWC = npz.load_unlabelled(path)
    elif scheme == "folder" and path.is_dir() and not any(item.is_dir() for item in path.iterdir()):
        x_NHWC = folder.load_without_classes(path)
    if x_NHWC is None:
        return data.load(spec, root=root, split="train")
    return ImageSet(f"{scheme}:{path.name}", "all", x_NHWC, np.zeros(len(x_NHWC), np.int64), ("unlabelled",))


def _write(path: Path, x_NHWC: NDArray[np.uint8], y_N: NDArray[np.int64], names: NDArray[np.str_]) -> None:
    content = io.BytesIO()
    np.savez(content, x=x_NHWC, y=y_N, class_names=names)
    try:
        with atomic(path) as file:
            file.write(content.getvalue())
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}): choose another --out.") from None
