"""The machine's matrix rate: operations per second of large matrix products in float32 and bfloat16.

Benchmarks report their speed as a fraction of this rate. ``python -m benchmarks.evaluation.matrix_rate cpu``
prints it as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

MIN_SECONDS = 0.1
"""Duration of a product that is long enough to be measured."""


def rate(
    dtype: torch.dtype,
    device: torch.device,
    *,
    side: int,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Operations per second of ``side`` x ``side`` products; the best repetition within ``seconds``.

    With ``clock=time.process_time``: operations per processor second, over all threads. A device that is too
    slow for this size, such as a processor without bfloat16 products, is measured with smaller products.
    """
    side = _affordable_side(dtype, device, side)
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = clock()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - start)
    return 2 * side**3 / best


def _affordable_side(dtype: torch.dtype, device: torch.device, largest: int) -> int:
    """The first of 128, 256, ... at which a product takes MIN_SECONDS, or ``largest``."""
    side = 128
    while side < largest:
        a = torch.rand(side, side, device=device).to(dtype)
        if side == 128:
            a @ a  # The first product also loads libraries.
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if time.perf_counter() - start > MIN_SECONDS:
            return side
        side *= 2
    return largest


def main() -> None:
    device = torch.device(sys.argv[1])
    side = 2048 if device.type == "cpu" else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {name: rate(getattr(torch, name), device, side=side) for name in ("float32", "bfloat16")}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
