"""Choose the device that a command computes on, and name it for results."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch

from robust_eval.core.errors import UserError


def pick_device(text: str) -> torch.device:
    """Parse ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` is the first GPU, else the CPU.

    Raises:
        UserError: for any other text, and for a GPU that torch does not find.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"Unknown device '{text}'. Write auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"{text} is not available: torch finds {torch.cuda.device_count()} CUDA devices. "
            "Use --device cpu."
        )
    return device


def device_name(device: torch.device) -> str:
    """``cpu``, or the product name of the GPU, e.g. ``NVIDIA H200``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def full_precision() -> None:
    """Compute in float32 only: no TF32 and no bfloat16, which are too coarse for published results."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for backend in _backends():
        backend.fp32_precision = "ieee"


def float32_precision() -> tuple[str | None, bool | None, tuple[str, ...]]:
    """The present settings, for :func:`set_float32_precision`.

    torch has an older and a newer interface to them (2.9). The older one cannot be read (None) after the
    newer one was used.
    """
    newer = tuple(backend.fp32_precision for backend in _backends())
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, newer
    except RuntimeError:
        return None, None, newer


def set_float32_precision(settings: tuple[str | None, bool | None, tuple[str, ...]]) -> None:
    """Restore what :func:`float32_precision` returned."""
    matmul, cudnn, newer = settings
    if matmul is not None and cudnn is not None:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn
    for backend, value in zip(_backends(), newer, strict=True):
        backend.fp32_precision = value


def _backends() -> list[Any]:
    """The parts of torch that have an fp32_precision."""
    names = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
    found = [attrgetter(name)(torch.backends) for name in names if _has(name)]
    return [backend for backend in found if hasattr(backend, "fp32_precision")]


def _has(name: str) -> bool:
    backend, _, part = name.partition(".")
    return hasattr(getattr(torch.backends, backend), part)
