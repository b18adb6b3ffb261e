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


def rate(
    dtype: torch.dtype,
    device: torch.device,
    *,
    side: int,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Operations per second of ``side`` x ``side`` products; the best repetition within ``seconds``.

    With ``clock=time.process_time``: operations per processor second, over all threads.
    """
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = clock()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - start)
    return 2 * side**3 / best


def main() -> None:
    device = torch.device(sys.argv[1])
    side = 2048 if device.type == "cpu" else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {name: rate(getattr(torch, name), device, side=side) for name in ("float32", "bfloat16")}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
