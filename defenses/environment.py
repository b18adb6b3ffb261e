"""What the commands set before torch is loaded. A value that the user has set stays."""

from __future__ import annotations

import os

QUICK = {
    # Threads that spin while they wait make small networks many times slower on busy cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Linux: large tensors in huge pages. Fewer page faults make a training step 3 to 7% faster.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def prepare_environment() -> None:
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
