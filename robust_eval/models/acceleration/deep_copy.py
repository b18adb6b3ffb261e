"""A copy of anyone's model."""

from __future__ import annotations

import copy

from torch import nn

from robust_eval.core.errors import UserError


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy. Raises :class:`UserError` where the model holds what cannot be copied: a lock, a file."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UserError(
            f"The model cannot be copied for the search ({type(error).__name__}: {error}). "
            "Keep what cannot be copied out of it, or give its class a __deepcopy__."
        ) from error
