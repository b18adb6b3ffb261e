"""Refuse images of other channels or another size than a network takes, before it sees them."""

from __future__ import annotations

import torch

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models.isolation import Isolated
from robust_eval.models.loading.checkpoint import LoadedModel
from robust_eval.models.out_of_memory import is_out_of_memory


@torch.no_grad()
def refuse_others(model: LoadedModel, images: ImageSet, device: torch.device) -> None:
    """Raise :class:`UserError` if the network does not take the channels and the size of the images."""
    height, width = images.image_size
    blank = torch.full((1, images.channels, height, width), 0.5, device=device)
    try:
        Isolated(model.model.eval())(blank)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        channels = f"{images.channels} channel{'s' * (images.channels > 1)}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
        raise UserError(
            f"{model.ref.name} does not take the images of {images.name}, {height}x{width} with {channels}: "
            f"{reason}. Choose the data it was trained on with --data."
        ) from error
