"""Is the model that goes on with a run the one that began it?

A network's code, what it imports and the libraries below it are no part of a checkpoint's file, so that two
models may share a request. The run folder keeps what the first one answered.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_eval.core import logits
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, writing

FILE = "first-logits.npy"
OTHER = 0.01
"""In units of the logits' spread. Other devices and kernels move float32 logits by some 1e-6."""


def check(folder: Path, logits_NK: Tensor | None) -> None:
    """Keep a model's logits on the run's first images; None for a model that answers at random.

    Of several models at once: logits_MNK.

    Raises :class:`UserError` where the folder keeps those of another model.
    """
    if logits_NK is None:
        return
    kept, logits_NK = _read(folder), logits_NK.float().cpu()
    if kept is None:
        file = io.BytesIO()
        np.save(file, logits_NK.numpy(), allow_pickle=False)
        with writing(folder), atomic(folder / FILE) as out:
            out.write(file.getvalue())
    elif (found := difference(logits_NK, kept)) > OTHER:
        raise UserError(
            f"The model answers otherwise than the one that began {folder} (its first logits differ by "
            f"{found:.2g} of their spread): its code, or a library, has changed since. Choose another run "
            "folder, or delete this one."
        )


def check_all(folders: Sequence[Path]) -> None:
    """Raises :class:`UserError` where two of the folders' runs had another model."""
    known = [(folder, logits) for folder in folders if (logits := _read(folder)) is not None]
    for folder, logits in known[1:]:
        if difference(logits, known[0][1]) > OTHER:
            raise UserError(
                f"{folder} and {known[0][0]} were run with models that answer differently: the code of the "
                "network, or a library, was another. Run all shards with the same."
            )


def difference(a_NK: Tensor, b_NK: Tensor) -> float:
    """Of the median image, so that a model with steps inside may fall on either side for a few.

    Of several models, logits_MNK, the largest.
    """
    if a_NK.dim() != b_NK.dim() or a_NK.shape[-1] != b_NK.shape[-1]:
        return float("inf")
    if a_NK.dim() == 3:
        if len(a_NK) != len(b_NK):
            return float("inf")
        return max(difference(a, b) for a, b in zip(a_NK, b_NK, strict=True))
    n = min(len(a_NK), len(b_NK))
    each = [logits.largest_difference(a, b) for a, b in zip(a_NK[:n], b_NK[:n], strict=True)]
    return float(np.median(each)) / logits.logit_std(b_NK)


def _read(folder: Path) -> Tensor | None:
    """None where there are none yet, or what is there cannot be read."""
    try:
        return torch.from_numpy(np.load(folder / FILE, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
