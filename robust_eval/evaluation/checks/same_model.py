"""Check that a run is continued with the model that it was started with.

The code of a network, its imports and its libraries are not part of a checkpoint file, so that two models may
have the same request. The run folder stores the logits of the first images to distinguish them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_eval.core import logits, strict_arrays
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, report_write_errors

FILE = "first-logits.npy"
_LARGEST = 2**26
MAX_DIFFERENCE = 0.01
"""In units of the logits' standard deviation. Devices and kernels change float32 logits by about 1e-6."""


def check(folder: Path, logits_NK: Tensor | None) -> None:
    """Store a model's logits on the first images, or compare them with the stored ones.

    None for a model with random outputs, which is not compared. For several models at once: logits_MNK.

    Raises:
        UserError: if the folder contains the logits of another model.
    """
    if logits_NK is None:
        return
    stored, logits_NK = _read(folder), logits_NK.float().cpu()
    if stored is None:
        file = io.BytesIO()
        np.save(file, logits_NK.numpy(), allow_pickle=False)
        with report_write_errors(folder), atomic(folder / FILE) as out:
            out.write(file.getvalue())
    elif (found := difference(logits_NK, stored)) > MAX_DIFFERENCE:
        raise UserError(
            f"The model is not the one that began {folder} (its logits differ by {found:.2g} standard "
            "deviations): its code or a library has changed since. Choose another run folder, or delete this "
            "one."
        )


def check_all(folders: Sequence[Path]) -> None:
    """Raise UserError if two of the folders' runs had different models."""
    known = [(folder, logits) for folder in folders if (logits := _read(folder)) is not None]
    for folder, logits in known[1:]:
        if difference(logits, known[0][1]) > MAX_DIFFERENCE:
            raise UserError(
                f"{folder} and {known[0][0]} were run with models whose logits differ: the code of the "
                "network or a library was different. Run all shards with the same code and libraries."
            )


def difference(a_NK: Tensor, b_NK: Tensor) -> float:
    """Difference of the median image's logits, in standard deviations; of M models the largest."""
    if a_NK.dim() != b_NK.dim() or a_NK.shape[-1] != b_NK.shape[-1]:
        return float("inf")
    if a_NK.dim() == 3:
        if len(a_NK) != len(b_NK):
            return float("inf")
        return max(difference(a, b) for a, b in zip(a_NK, b_NK, strict=True))
    n = min(len(a_NK), len(b_NK))
    return logits.median_difference(a_NK[:n], b_NK[:n])


def _read(folder: Path) -> Tensor | None:
    """The stored logits; None if there are none, or the file cannot be read."""
    try:
        stored = strict_arrays.read_npy(folder / FILE, _LARGEST)
    except UserError:
        return None
    return torch.from_numpy(stored) if stored.dtype == np.float32 and stored.ndim in (2, 3) else None
