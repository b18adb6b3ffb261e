"""Simulate the scheduler: one driver, many GPUs, and units that depend on earlier stages."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, replace

from benchmarks.scaling.board.measured import Measured
from benchmarks.scaling.board.units import SPLIT, Board, Piece, board_request

KEEP = 4
"""Checkpoints that a worker keeps in memory."""
CALL_SECONDS = 0.005
"""Fixed cost of a forward or backward pass of a WRN-34-10 (an assumption)."""


@dataclass(frozen=True)
class Policy:
    """A scheduling policy."""

    name: str
    parallel: bool = True
    """Columns of a run are independent of each other."""
    longest: bool = True
    """Units on the longest remaining path first; else in the order of the suite."""
    split: int = SPLIT
    long_cut: bool = True
    """Units of long attacks are smaller."""


POLICIES = (
    Policy("as built"),
    Policy("long attacks in full batches", long_cut=False),
    Policy("everything in full batches", split=1),
    Policy("suite order", longest=False),
    Policy("one column after the other", parallel=False, longest=False),
)


@dataclass(frozen=True)
class Outcome:
    """Simulated times in seconds, and counts."""

    makespan: float
    work: float
    chain: float
    """Critical path: the longest sequence of dependent stages, with one GPU per unit."""
    units: int
    loads: int
    driver: float
    """Busy time of the driver."""

    def efficiency(self, gpus: int) -> float:
        return self.work / (gpus * self.makespan)


def simulate(
    measured: Measured, gpus: int, runs: int, policy: Policy, tflops: float, seed: int = 0
) -> Outcome:
    """Simulate the evaluations of a leaderboard."""
    board = Board(board_request(0, split=policy.split), long_cut=policy.long_cut)
    clock = _Clock(measured, tflops, random.Random(seed))
    queue = _Queue(board, policy, clock)
    pool = _Pool(measured, gpus, runs, queue, clock)
    pool.feed()
    while pool.busy:
        pool.step()
    chain = max(column[0] for column in queue.rest)
    makespan = max(pool.now, pool.driver_free)
    return Outcome(makespan, pool.work, chain, pool.units, pool.loads, pool.driver_busy)


@dataclass(frozen=True)
class _Clock:
    """Time that a GPU takes for a unit."""

    measured: Measured
    tflops: float
    draw: random.Random

    def seconds(self, piece: Piece, *, noisy: bool = True) -> float:
        per_pass = self.measured.flops / (self.tflops * 1e12)
        work = piece.passes * piece.images * per_pass + piece.calls * CALL_SECONDS
        return work * (math.exp(self.draw.gauss(0, self.measured.spread)) if noisy else 1.0)


class _Queue:
    """Units that can start, by run, the most urgent first."""

    def __init__(self, board: Board, policy: Policy, clock: _Clock) -> None:
        self._board, self._policy = board, policy
        self._counter = itertools.count()
        self._ready: dict[int, list[tuple[float, int, Piece]]] = {}
        self._missing: dict[tuple[int, int, int], int] = {}
        self.rest = [
            [
                sum(clock.seconds(stage_units[0], noisy=False) for stage_units in column[stage:])
                for stage in range(len(column))
            ]
            for column in board.columns
        ]
        """Seconds from a stage to the end of its column, with one GPU per unit."""

    def __len__(self) -> int:
        return sum(len(heap) for heap in self._ready.values())

    def open(self, run: int) -> None:
        self._add(run, -1, 0)

    def take(self, loaded: dict[int, None]) -> Piece:
        """Remove the most urgent unit of the first run that is ``loaded``, else of the first run."""
        run = min(self._ready, key=lambda r: (r not in loaded, r))
        piece = heapq.heappop(self._ready[run])[2]
        if not self._ready[run]:
            del self._ready[run]
        return piece

    def finish(self, piece: Piece) -> None:
        """Record a finished unit; after the last one of a stage, the next stage can start."""
        key = (piece.run, piece.column, piece.stage)
        self._missing[key] -= 1
        if self._missing[key]:
            return
        columns = self._board.columns
        if piece.column < 0:
            for column in range(len(columns)) if self._policy.parallel else (0,):
                self._add(piece.run, column, 0)
        elif piece.stage + 1 < len(columns[piece.column]):
            self._add(piece.run, piece.column, piece.stage + 1)
        elif not self._policy.parallel and piece.column + 1 < len(columns):
            self._add(piece.run, piece.column + 1, 0)

    def _add(self, run: int, column: int, stage: int) -> None:
        pieces = self._board.clean if column < 0 else self._board.columns[column][stage]
        urgency = -self.rest[column][stage] if self._policy.longest and column >= 0 else float(column)
        self._missing[run, column, stage] = len(pieces)
        for piece in pieces:
            entry = (urgency, next(self._counter), replace(piece, run=run, column=column))
            heapq.heappush(self._ready.setdefault(run, []), entry)


class _Pool:
    """The GPUs and the driver; time advances from one finished unit to the next."""

    def __init__(self, measured: Measured, gpus: int, runs: int, queue: _Queue, clock: _Clock) -> None:
        self._measured, self._queue, self._clock = measured, queue, clock
        self._counter = itertools.count()
        self._loaded: list[dict[int, None]] = [{} for _ in range(gpus)]
        self._idle, self._unopened = list(range(gpus)), list(range(runs))
        self.busy: list[tuple[float, int, int, Piece]] = []
        """(end, order, GPU, unit)"""
        self.now = self.driver_free = self.driver_busy = self.work = 0.0
        self.units = self.loads = 0

    def feed(self) -> None:
        """Give a unit to every idle GPU; open further runs while there are fewer units than GPUs."""
        while self._idle:
            while self._unopened and len(self._queue) < len(self._loaded):
                self._queue.open(self._unopened.pop(0))
            if not len(self._queue):
                return
            gpu = self._idle.pop()
            piece = self._queue.take(self._loaded[gpu])
            duration = self._clock.seconds(piece)
            self.work, self.units = self.work + duration, self.units + 1
            start = self.driver_free + self._measured.task_seconds + self._load(gpu, piece.run)
            heapq.heappush(self.busy, (start + duration, next(self._counter), gpu, piece))

    def step(self) -> None:
        """Advance to the end of the next unit."""
        self.now, _, gpu, piece = heapq.heappop(self.busy)
        self.driver_free = max(self.driver_free, self.now) + self._measured.driver_seconds
        self.driver_busy += self._measured.driver_seconds
        self._queue.finish(piece)
        self._idle.append(gpu)
        self.feed()

    def _load(self, gpu: int, run: int) -> float:
        """Seconds until the GPU has loaded the run's checkpoint."""
        held = self._loaded[gpu]
        if run in held:
            return 0.0
        if len(held) == KEEP:
            del held[next(iter(held))]
        held[run] = None
        self.loads += 1
        return self._measured.load_seconds
