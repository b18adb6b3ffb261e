"""Device, precision and processes: Lightning Fabric, or plain torch for one process on the CPU.

Importing Fabric takes seconds, and one process on the CPU needs nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError, unknown

Precision = Literal["32", "bf16"]
PRECISIONS = ("32", "bf16")
# Set by torchrun, by SLURM, or by hand.
_RENDEZVOUS = ("MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")


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
    """The mean over processes, in place; None for one process."""

    def add(self, values: Tensor) -> Tensor:
        """The sum over processes: counts of images that each has looked at a part of."""
        if self.reduce is None:
            return values
        # Counts stay far below 2**53.
        summed = values.double()
        self.reduce([summed])
        return (summed * self.world).round().to(values.dtype)

    def any(self, here: bool) -> bool:
        """Whether any process says so: all must stop at the same update, or some would wait for ever."""
        return bool(self.add(torch.tensor([int(here)], device=self.device)))


def start_runtime(device: str, precision: str, devices: int, nodes: int = 1) -> Runtime:
    """The runtime for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; starts the other processes if any.

    ``devices`` processes on each of ``nodes`` machines. Of several machines each must have been given the
    command, by torchrun, SLURM or hand, with a rendezvous in the environment.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if devices < 1:
        raise UserError(f"--devices must be at least 1, got {devices}.")
    if nodes < 1:
        raise UserError(f"--nodes must be at least 1, got {nodes}.")
    if nodes > 1 and not any(name in os.environ for name in _RENDEZVOUS):
        raise UserError(
            f"--nodes {nodes} needs to know where the nodes meet: start the command on every node with srun "
            "or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there."
        )
    _check_torchrun(devices, nodes)
    chosen = pick_device(device)
    if devices * nodes == 1 and chosen.type == "cpu":
        return Runtime(chosen, _cpu_autocast if precision == "bf16" else nullcontext)
    return _fabric(chosen, precision, devices, nodes)


def _check_torchrun(devices: int, nodes: int) -> None:
    """Else each of torchrun's processes might train the whole run, into one folder."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != devices * nodes:
        each = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        more = f" --nodes {world // each}" if world > each else ""
        raise UserError(
            f"torchrun has started {world} processes, but --devices and --nodes make {devices * nodes}: add "
            f"--devices {each}{more}."
        )


def _cpu_autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


def _fabric(device: torch.device, precision: str, devices: int, nodes: int) -> Runtime:
    from lightning.fabric import Fabric

    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"--devices {devices}, but torch sees {torch.cuda.device_count()} CUDA devices.")
    alone = [device.index or 0] if device.type == "cuda" else 1
    fabric = Fabric(
        accelerator=device.type,
        devices=devices if devices > 1 else alone,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
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
        reduce if devices * nodes > 1 else None,
    )
