"""Device, precision and processes: Lightning Fabric, or plain torch for one process on the CPU.

Importing Fabric takes seconds, and one process on the CPU needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from robust_eval.errors import UserError, unknown
from robust_eval.models import compiling

Precision = Literal["32", "bf16"]
PRECISIONS = ("32", "bf16")
COMPILE = ("auto", "on", "off")


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. Gradients are averaged by ``reduce``, not by a wrapper of the network:
    the attack's backward passes must not synchronise, and several forwards per update must be possible.
    """

    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]
    rank: int = 0
    world: int = 1
    reduce: Callable[[Sequence[Tensor]], None] | None = None


def start(device: str, precision: str, devices: int) -> Runtime:
    """The runtime for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; starts the other processes if any."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if devices < 1:
        raise UserError(f"--devices must be at least 1, got {devices}.")
    chosen = pick_device(device)
    if devices == 1 and chosen.type == "cpu":
        return Runtime(chosen, _cpu_autocast if precision == "bf16" else nullcontext)
    return _fabric(chosen, precision, devices)


def pick_device(text: str) -> torch.device:
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UserError(f"Unknown device '{text}'. Write auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"Unknown device '{text}'. Write auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"There is no {text} here: torch sees {torch.cuda.device_count()} CUDA devices. Use --device cpu."
        )
    return device


def check_compile(asked: str, device: torch.device) -> None:
    """A UserError where ``--compile`` names no mode, or asks for what cannot be had on the device."""
    if asked not in COMPILE:
        raise unknown("compile mode", asked, COMPILE)
    problem = compiling.unavailable(device) if asked == "on" else ""
    if problem:
        raise UserError(f"--compile on is not possible here: {problem}. Use --compile auto or off.")


def _cpu_autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


def _fabric(device: torch.device, precision: str, devices: int) -> Runtime:
    from lightning.fabric import Fabric

    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"--devices {devices}, but torch sees {torch.cuda.device_count()} CUDA devices.")
    alone = [device.index or 0] if device.type == "cuda" else 1
    fabric = Fabric(
        accelerator=device.type,
        devices=devices if devices > 1 else alone,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()

    def reduce(tensors: Sequence[Tensor]) -> None:
        """The mean over processes, in place, in one message."""
        if not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        mean = cast(Tensor, fabric.all_reduce(flat, reduce_op="mean"))
        for tensor, part in zip(tensors, torch.split(mean, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    return Runtime(
        fabric.device,
        fabric.autocast,
        fabric.global_rank,
        fabric.world_size,
        reduce if devices > 1 else None,
    )
