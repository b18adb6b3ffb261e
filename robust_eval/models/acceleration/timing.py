"""Measure the duration of calls, including work that is still queued on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Duration of one call in seconds; the device is idle at the start."""
    _synchronise(device)
    start = time.perf_counter()
    call()
    _synchronise(device)
    return time.perf_counter() - start


def fastest_call(
    call: Callable[[], object],
    device: torch.device,
    *,
    calls: tuple[int, int] = (3, 15),
    max_seconds: float = 1.0,
) -> float:
    """Duration of the fastest call in seconds, after one call for warming up.

    ``calls``: minimum and maximum number of calls. Beyond the minimum, calls are repeated until
    ``max_seconds`` have passed: with other load on the machine, three short calls gave wrong results.
    """
    call()
    durations: list[float] = []
    while len(durations) < calls[0] or (len(durations) < calls[1] and sum(durations) < max_seconds):
        durations.append(time_call(call, device))
    return min(durations)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
