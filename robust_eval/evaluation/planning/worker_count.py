"""Choose the number of local worker processes, so that a run ends soonest.

A network whose passes keep all threads busy is fastest in one process. Passes of small networks do not:
there, processes with one or few threads each use the cores better, once they have started.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

START = 8.0
"""Seconds until a new process attacks: it imports ART and loads the model (two cores, ART 1.20)."""
EXPECTED = 0.5
"""Share of the planned passes that a run makes: broken examples need no further attack."""


@dataclass(frozen=True)
class WorkerPlan:
    """Number of worker processes, and threads of each; one worker is the process of the command itself."""

    workers: int
    threads: int


@dataclass(frozen=True)
class Machine:
    """What a run can use: ``cores``, and how many processes fit into its memory."""

    cores: int
    processes: int


def choose(machine: Machine, seconds: float, speedup: float, parallel: int) -> WorkerPlan:
    """The plan that ends soonest.

    ``seconds``: planned passes of all attacks in one process with a thread per core. ``speedup``: of a pass
    with that many threads, compared with one thread. ``parallel``: units that can run at the same time.
    """
    most = min(machine.cores, machine.processes, parallel)
    # Speedup of k threads: k to this power.
    exponent = math.log(max(speedup, 1.0)) / math.log(machine.cores) if machine.cores > 1 else 1.0

    def duration(workers: int) -> float:
        threads = machine.cores // workers
        gain = workers * math.pow(threads / machine.cores, exponent)
        return EXPECTED * seconds / gain + (START if workers > 1 else 0)

    workers = min(range(1, max(most, 1) + 1), key=duration)
    return WorkerPlan(workers, machine.cores // workers)
