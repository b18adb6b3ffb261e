"""Copy a model, with an error message if that is not possible."""

from __future__ import annotations

import copy

from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.models.isolation import Isolated


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``, or of the model in an :class:`~robust_eval.models.isolation.Isolated`.

    Raises:
        UserError: if the model contains an object that cannot be copied, such as a lock or an open file.
    """
    try:
        return copy.deepcopy(model.model if isinstance(model, Isolated) else model)
    except Exception as error:
        raise UserError(
            f"The model cannot be copied for the attacks ({type(error).__name__}: {error}). "
            "Remove objects that cannot be copied from it, or give its class a __deepcopy__ method."
        ) from error
