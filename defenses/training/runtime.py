"""Device, precision and processes: plain torch for one process, Lightning Fabric for several."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor

from robust_eval.core import extras
from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError, unknown

Precision = Literal["32", "bf16"]
PRECISIONS = ("32", "bf16")
_RENDEZVOUS = ("MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
"""Environment variables of which one is set if several nodes can find each other."""


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute.

    Gradients are averaged by ``reduce``, not by a wrapper of the network: the attack's backward passes
    must not synchronise, and an update may need several forward passes.
    """

    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]
    rank: int = 0
    world: int = 1
    reduce: Callable[[Sequence[Tensor]], None] | None = None
    """Replaces tensors by their mean over processes, in place; None for one process."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes of integer counts."""
        if self.reduce is None:
            return values
        # Counts stay far below 2**53.
        summed = values.double()
        self.reduce([summed])
        return (summed * self.world).round().to(values.dtype)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is True in any process; used to stop all processes at the same update."""
        return bool(self.sum(torch.tensor([int(flag)], device=self.device)))


def start_runtime(device: str, precision: str, devices: int, nodes: int = 1) -> Runtime:
    """The runtime for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; starts the other processes if needed.

    ``devices`` processes on each of ``nodes`` machines. With several machines the command must be started
    on each of them (torchrun, SLURM or by hand) with a rendezvous in the environment. Raises UserError if
    an argument is invalid or does not match the environment.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if devices < 1:
        raise UserError(f"--devices must be at least 1, got {devices}.")
    if nodes < 1:
        raise UserError(f"--nodes must be at least 1, got {nodes}.")
    if nodes > 1 and not any(name in os.environ for name in _RENDEZVOUS):
        raise UserError(
            f"--nodes {nodes} needs a rendezvous address: start the command on every node with srun "
            "or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there."
        )
    _check_torchrun(devices, nodes)
    chosen = pick_device(device)
    return _processes(chosen, precision, devices, nodes) if devices * nodes > 1 else _alone(chosen, precision)


def _check_torchrun(devices: int, nodes: int) -> None:
    """Raise UserError if torchrun started another number of processes.

    Each of them would otherwise train the complete run, in the same folder.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != devices * nodes:
        per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        more = f" --nodes {world // per_node}" if world > per_node else ""
        raise UserError(
            f"torchrun has started {world} processes, but --devices and --nodes make {devices * nodes}: add "
            f"--devices {per_node}{more}."
        )


def _alone(device: torch.device, precision: str) -> Runtime:
    """One process."""
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        # Some kernels run on the current device, wherever their tensors are.
        torch.cuda.set_device(device)
    mixed = partial(torch.autocast, device.type, torch.bfloat16)
    return Runtime(device, mixed if precision == "bf16" else nullcontext)


def _processes(device: torch.device, precision: str, devices: int, nodes: int) -> Runtime:
    """Several processes, which Fabric starts unless torchrun or SLURM has started them."""
    fabric_module = extras.load("train", "lightning_fabric", "Training in several processes")
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"--devices {devices}, but torch finds {torch.cuda.device_count()} CUDA devices.")
    alone = [device.index or 0] if device.type == "cuda" else 1
    fabric = fabric_module.Fabric(
        accelerator=device.type,
        devices=devices if devices > 1 else alone,
        num_nodes=nodes,
        strategy="ddp",
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

    return Runtime(fabric.device, fabric.autocast, fabric.global_rank, fabric.world_size, reduce)
