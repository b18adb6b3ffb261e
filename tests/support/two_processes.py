"""Train an epoch, or a complete run, in one or several processes of this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as processes

from defenses.training import epoch, trainer
from defenses.training.context import begin
from defenses.training.display import SilentTrainingDisplay
from defenses.training.runtime import Runtime
from defenses.training.signals import InterruptHandler
from support.fork_servers import context_with
from support.small_jobs import make_job

NETWORK = """
import torch
from torch import nn

def build(classes, channels, image_size, num_classes):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, classes),
    )
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _runtime(rank: int, world: int, port: int) -> Runtime:
    if world == 1:
        return Runtime(torch.device("cpu"), nullcontext)
    address = f"tcp://127.0.0.1:{port}"
    processes.init_process_group("gloo", init_method=address, rank=rank, world_size=world)

    def reduce(tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            processes.all_reduce(tensor)
            tensor.div_(world)

    return Runtime(torch.device("cpu"), nullcontext, rank, world, reduce)


def _one_epoch(
    rank: int, world: int, port: int, folder: str, recipe: str, sets: tuple[str, ...], options: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    job = make_job(Path(folder) / "run", recipe, *sets, **options)
    context, state = begin(job, _runtime(rank, world, port))
    epoch.train_epoch(context, state, SilentTrainingDisplay(), lambda: None)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    trainer.average_running_statistics(context, state)
    accuracies = epoch.measure_epoch(context, state, lambda: None)
    torch.save(
        {
            "trained": before,
            "shared": state.network.state_dict(),
            "evaluated": state.eval_network.state_dict(),
            "measured": {name: [value.clean, value.pgd] for name, value in accuracies.items()},
            "loss": state.progress.loss_sum / state.progress.images,
            "images": state.progress.images,
        },
        Path(folder) / f"{rank}-of-{world}.pt",
    )


def _complete_run(
    rank: int, world: int, port: int, folder: str, recipe: str, options: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    job = make_job(Path(folder) / "run", recipe, **options)
    trainer.train(job, _runtime(rank, world, port), SilentTrainingDisplay(), InterruptHandler())


def _in_processes(target: Any, world: int, *arguments: Any) -> None:
    # An optimiser imports torch._dynamo, which takes seconds.
    context = context_with("torch._dynamo", "defenses.training.trainer", "sklearn.datasets")
    port = free_port()
    started = [context.Process(target=target, args=(rank, world, port, *arguments)) for rank in range(world)]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    assert [process.exitcode for process in started] == [0] * world


def one_epoch(world: int, folder: Path, recipe: str, *sets: str, **options: Any) -> list[dict[str, Any]]:
    """Train an epoch of a small job in ``world`` processes; returns the tensors and sums of each."""
    folder.mkdir(exist_ok=True)
    _in_processes(_one_epoch, world, str(folder), recipe, sets, options)
    return [torch.load(folder / f"{rank}-of-{world}.pt", weights_only=True) for rank in range(world)]


def complete_run(world: int, folder: Path, recipe: str, **options: Any) -> None:
    """Train to the last epoch in ``world`` processes, from the start or with ``resume=True``."""
    folder.mkdir(exist_ok=True)
    _in_processes(_complete_run, world, str(folder), recipe, options)
