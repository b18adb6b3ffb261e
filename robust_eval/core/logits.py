"""Functions of logits: margin, standard deviation, largest difference; which outputs are logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def margin(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """``z_y - max_{k != y} z_k``, shape (N,); negative if the prediction is wrong."""
    true = logits_NK.gather(1, y_N[:, None]).squeeze(1)
    others = logits_NK.scatter(1, y_N[:, None], float("-inf"))
    return true - others.amax(1)


def logit_std(logits_NK: Tensor) -> float:
    """Standard deviation over the images with finite logits, at least 1e-12; 1 for fewer than two images."""
    finite = logits_NK.isfinite().all(1)
    return max(float(logits_NK[finite].std()), 1e-12) if finite.sum() > 1 else 1.0


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over finite entries; infinite if an entry is finite in only one of them."""
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    gap = (a - b).abs()
    return float(gap[gap.isfinite()].max()) if gap.isfinite().any() else 0.0


def median_difference(a_NK: Tensor, b_NK: Tensor, share: float = 0.5) -> float:
    """Largest difference of an image's logits, of the median image, in standard deviations of ``b_NK``.

    The median, because the logits of single images may jump in a model with discontinuities. ``share``: of
    the images with at least this difference, if another share than half is to differ.
    """
    each = sorted((largest_difference(a, b) for a, b in zip(a_NK, b_NK, strict=True)), reverse=True)
    if not each:
        return 0.0
    middle = float(np.median(each)) if share == 0.5 else each[int(share * len(each))]
    return middle / logit_std(b_NK)


def output_problem(output: object, images: int) -> str:
    """What a model returned for ``images`` images instead of logits (N, K), as a phrase; '' for logits."""
    if not isinstance(output, Tensor):
        return type(output).__name__
    if output.dim() != 2 or len(output) != images:
        return str(tuple(output.shape))
    if output.is_meta or not output.is_floating_point() or output.layout != torch.strided:
        # Neither a comparison of logits nor a gradient is defined for the others.
        return f"{output.dtype}, {output.layout}, on {output.device}"
    return ""
