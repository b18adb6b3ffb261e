"""Check the arguments of :func:`robust_eval.evaluate`, for callers without a type checker."""

from __future__ import annotations

import os
from numbers import Integral

import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Suite
from robust_eval.evaluation.planning.options import SearchOptions

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_model_and_images(model: object, x_NCHW: object, y_N: object, threat: object, suite: object) -> None:
    """Raise :class:`UserError` for other types than those of :func:`robust_eval.evaluate`."""
    if not isinstance(model, nn.Module):
        given, advice = f"a {type(model).__name__}", "Build the network and load its weights."
        if isinstance(model, type):
            given, advice = f"the class {model.__name__}", "Create an instance of it."
        elif isinstance(model, str | os.PathLike):
            advice = "For a file use robust-eval run."
        raise UserError(f"evaluate() takes a torch.nn.Module, not {given}. {advice}")
    for name, value in (("x_NCHW", x_NCHW), ("y_N", y_N)):
        if not isinstance(value, Tensor):
            convert = "torch.tensor" if isinstance(value, list | tuple) else "torch.from_numpy"
            raise UserError(f"{name} must be a torch.Tensor, not a {type(value).__name__}; use {convert}.")
        if value.layout != torch.strided or value.is_quantized:
            raise UserError(f"{name} must be a dense tensor, not {value.layout} of {value.dtype}.")
    if not isinstance(threat, ThreatModel | str):
        raise UserError("The threat model must be a ThreatModel or text such as 'Linf 8/255'.")
    listed = isinstance(suite, list | tuple) and all(isinstance(one, str) or callable(one) for one in suite)
    if not isinstance(suite, str | Suite) and not listed:
        raise UserError(
            "The suite must be a Suite, text such as 'full' or 'fgsm,pgd-20', or a list of attacks "
            "function(model, x_NCHW, y_N, threat) and names."
        )


def check_options(
    *, name: object, data: object, out: object, display: object, diagnose: object, options: SearchOptions
) -> None:
    """Raise :class:`UserError` for options of other types than those of :func:`robust_eval.evaluate`."""
    if not isinstance(display, bool) and not hasattr(display, "update"):
        raise UserError(
            "display must be True, False, or an object with the methods update, opened and log "
            "(robust_eval.evaluation.executors.display.Display)."
        )
    batch_size, seed = options.batch_size, options.seed
    right = {
        "name": (name, _is_one_line(name), "text in one line"),
        "data": (data, _is_one_line(data), "text in one line"),
        "out": (out, out is None or isinstance(out, str | os.PathLike), "a path or None"),
        "diagnose": (diagnose, isinstance(diagnose, bool), "True or False"),
        "batch_size": (batch_size, batch_size is None or _is_integer(batch_size), "an integer or None"),
        "seed": (seed, _is_integer(seed), "an integer"),
        "precision": (options.precision, isinstance(options.precision, str), "float32, bfloat16 or auto"),
        "compile": (options.compile, isinstance(options.compile, str), "auto, on or off"),
    }
    for option, (value, is_right, expected) in right.items():
        if not is_right:
            raise UserError(f"{option} must be {expected}, not {value!r}.")


def _is_one_line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def checked_images(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Images as float32 and labels as int64; :class:`UserError` if shape, type or range is another one."""
    if x.dim() != 4 or not x.is_floating_point():
        raise UserError(
            f"Images must be float (N, C, H, W) in [0, 1], got {x.dtype} of shape {tuple(x.shape)}."
        )
    if y.shape != (len(x),) or y.dtype not in _INTEGERS:
        raise UserError(
            f"Labels must be integers of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}."
        )
    if len(x) == 0:
        raise UserError("There are no images to evaluate.")
    if x.isnan().any():
        raise UserError(f"Images must lie in [0, 1], but {_with_nan(x)} of {len(x)} contain NaN.")
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError(f"Images must lie in [0, 1], got {float(x.min()):.3g} to {float(x.max()):.3g}.")
    if int(y.min()) < 0:
        raise UserError(f"Labels must be 0 or more, got {int(y.min())}.")
    return x.float(), y.long()


def _with_nan(x_NCHW: Tensor) -> int:
    return int(x_NCHW.flatten(1).isnan().any(1).sum())
