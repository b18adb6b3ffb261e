"""Choose the device that a command computes on, and name it for results."""

from __future__ import annotations

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
    """Disable TF32, which rounds to 10 bits: too coarse for results that are published or compared."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
