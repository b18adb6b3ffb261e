"""Load a checkpoint that was loaded before, without detecting anything about it again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from robust_eval.core.types import CheckpointRef
from robust_eval.data import ImageSet
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.models.loading import checkpoint
from robust_eval.models.loading.checkpoint import LoadedModel


def load_known(
    options: EvaluationOptions, known: CheckpointRef, shape_CHW: Sequence[int], device: torch.device
) -> LoadedModel:
    """The model of ``options.checkpoint``, which was found to be ``known`` on images of this shape.

    It is loaded with a blank image: it must not see the evaluated ones.

    Raises:
        UserError: if the file cannot be used.
    """
    channels, height, width = shape_CHW
    blank = np.full((1, height, width, channels), 128, dtype=np.uint8)
    names = tuple(map(str, range(known.classes)))
    return checkpoint.load(
        options.checkpoint,
        images=ImageSet("blank", "all", blank, np.zeros(1, dtype=np.int64), names),
        arch=options.arch,
        normalisation=options.normalisation,
        device=device,
        known=known,
    )
