"""How long a call takes on a device, work that it left queued there included."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """One call, begun when the device is idle."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def fastest_call(
    call: Callable[[], object],
    device: torch.device,
    *,
    calls: tuple[int, int] = (3, 15),
    within: float = 1.0,
) -> float:
    """The seconds of the fastest call, after one that warms up.

    ``calls``: at least and at most so many, the latter while all together have not taken ``within`` seconds.
    On a machine that is busy with something else, three short ones told wrong.
    """
    call()
    taken: list[float] = []
    while len(taken) < calls[0] or (len(taken) < calls[1] and sum(taken) < within):
        taken.append(time_call(call, device))
    return min(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
