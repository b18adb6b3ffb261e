"""Small clean and adversarial images of a row, to be embedded in the web page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robust_eval import data
from robust_eval.core.errors import UserError
from robust_eval.core.types import Ints
from robust_eval.data import ImageSet
from robust_eval.evaluation.store import FolderStore
from robust_eval.leaderboard import attachments
from robust_eval.leaderboard.page_extras import Picture, Pictures
from robust_eval.results import EvalResult, read_result
from robust_eval.results.evidence import Evidence, read_evidence

MAX_BYTES = 40_000
"""Largest total size of a row's images in bytes, encoded as in the page."""
MAX_SIDE = 48
"""Images with a longer side are reduced."""

Floats = NDArray[np.float64]


def make_thumbnails(result: EvalResult, evidence: Path, images: ImageSet, k: int = 4) -> Pictures | None:
    """Up to ``k`` broken examples of different classes, from the column with the most; None if none.

    ``images``: the images that were evaluated. Fewer than ``k`` if more would exceed :data:`MAX_BYTES`.
    Raises :class:`UserError` if evidence or images are not those of the result.
    """
    stored = _evidence(result, evidence)
    if images.slice().fingerprint != result.data.fingerprint:
        raise UserError(
            f"These are not the images that {evidence} belongs to. Give the data that was evaluated."
        )
    broken = {name: stored.broken(name) for name in result.columns}
    column = max(broken, key=lambda name: len(broken[name][0]))
    indices, images_BCHW = broken[column]
    if not len(indices):
        return None
    if indices.min() < 0 or indices.max() >= images.n or images_BCHW.shape[2:] != images.image_size:
        raise UserError(f"{evidence} holds images of no example. Evaluate again.")
    chosen = _different_classes(indices, images.y_N, k)
    seen_as = _seen_as(evidence.parent, {int(indices[position]) for position in chosen})
    found: list[Picture] = []
    for position in chosen:
        index, adversarial = int(indices[position]), images_BCHW[position]
        seen = seen_as.get((index, adversarial.tobytes()))
        picture = _picture(
            index,
            images,
            adversarial.transpose(1, 2, 0),
            column=result.columns[column].title,
            seen_as=None if seen is None else images.class_names[seen],
        )
        if _bytes([*found, picture]) > MAX_BYTES:
            break
        found.append(picture)
    height, width = _reduced(images.x_NHWC[0] / 255).shape[:2]
    return Pictures(size=(height, width), examples=tuple(found)) if found else None


def thumbnails_of_run(run: Path, spec: str | None = None, data_root: Path | None = None) -> Pictures | None:
    """Images of a run or a row from the evidence beside it; None if no example is broken.

    ``spec``: the data (``folder:DIR``, ``npz:FILE``), if it cannot be loaded by the name in the result.
    """
    result = read_result(run)
    if result.evidence is None:
        raise UserError(f"{run} has no evidence, so there are no images to show. Omit --images.")
    about = result.data
    split: data.Split = "train" if about.split == "train" else "test"
    images = data.load(spec or about.name, root=data_root, split=split).take(about.n)
    return make_thumbnails(result, attachments.find_evidence(run), images)


def _seen_as(run: Path, wanted: set[int]) -> dict[tuple[int, bytes], int]:
    """The predicted class of each adversarial image; empty if the run's unit files no longer exist."""
    store = FolderStore(run)
    found: dict[tuple[int, bytes], int] = {}
    for path in sorted((run / "units").glob("*.npz")):
        unit = store.get(path.stem)
        if unit is None or not len(unit.evidence):
            continue
        broken = ~unit.verdicts.robust
        seen = zip(unit.verdicts.indices[broken], unit.verdicts.adv_pred[broken], unit.evidence, strict=True)
        found |= {(int(i), image.tobytes()): int(label) for i, label, image in seen if int(i) in wanted}
    return found


def _evidence(result: EvalResult, path: Path) -> Evidence:
    stored = read_evidence(path)
    if result.evidence is None or stored.sha256 != result.evidence.sha256:
        raise UserError(f"{path} is not the evidence of this result.")
    return stored


def _different_classes(indices: NDArray[np.generic], labels: Ints, k: int) -> list[int]:
    """Up to ``k`` positions in ``indices``: the first example of each class, then the second of each."""
    seen: dict[int, int] = {}
    rounds = []
    for position, index in enumerate(indices):
        label = int(labels[int(index)])
        seen[label] = seen.get(label, 0) + 1
        rounds.append((seen[label], position))
    return [position for _, position in sorted(rounds)[:k]]


def _picture(
    index: int, images: ImageSet, adversarial: Floats, *, column: str, seen_as: str | None
) -> Picture:
    """``adversarial``: pixels in [0, 1], (H, W, C)."""
    clean = images.x_NHWC[index] / 255
    change = adversarial - clean
    largest = float(np.abs(change).max())
    amplified = 0.5 / largest if largest > 0 else 1.0
    return Picture(
        index=index,
        label=images.class_names[int(images.y_N[index])],
        column=column,
        seen_as=seen_as,
        clean=_png(_reduced(clean)),
        adversarial=_png(_reduced(adversarial)),
        difference=_png(0.5 + _reduced(change) * amplified),
        amplified=amplified,
    )


def _reduced(image: Floats) -> Floats:
    """Average over square blocks, so that no side is longer than :data:`MAX_SIDE`; (H, W, C)."""
    height, width, channels = image.shape
    block = -(-max(height, width) // MAX_SIDE)
    if block == 1:
        return image
    height, width = height // block, width // block
    cut = image[: height * block, : width * block]
    means: Floats = cut.reshape(height, block, width, block, channels).mean(axis=(1, 3))
    return means


def _png(image: Floats) -> str:
    pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _bytes(pictures: list[Picture]) -> int:
    return sum(len(p.clean) + len(p.adversarial) + len(p.difference) for p in pictures)
