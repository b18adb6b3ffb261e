"""The machine's matrix rate: large products in float32 and bfloat16, operations per second.

A figure for the share that a benchmark reaches of what the machine can do, measured in the same run.
"""

from __future__ import annotations

import json
import sys
import time

import torch


def rate(dtype: torch.dtype, device: torch.device, *, side: int, seconds: float = 2.0) -> float:
    """Operations per second of ``side`` x ``side`` products, the best of what fits into ``seconds``."""
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def main() -> None:
    device = torch.device(sys.argv[1])
    side = 2048 if device.type == "cpu" else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {name: rate(getattr(torch, name), device, side=side) for name in ("float32", "bfloat16")}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
