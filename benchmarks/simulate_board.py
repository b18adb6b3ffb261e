"""How long a board takes on 1 to 1,000 GPUs: a simulation of the pool, driven by ``robust_eval.plan`` itself.

``python -m benchmarks.simulate_board`` plans 100 checkpoints x 10,000 images x ``full`` as ``robust-eval
run --executor ray`` would and plays it through: the same units, the same order of tasks, one driver that
takes one result at a time, workers that load a checkpoint before their first unit of it. Reckoned, not
measured, is how long a GPU takes for a pass (``--tflops``); the rest is measured here (``--measure`` does it
again), and how many images survive each attack is the AWP paper's AT-AWP row.
"""

from __future__ import annotations

import argparse
import heapq
import io
import itertools
import json
import math
import pickle
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import options
from robust_eval import attacks, suites
from robust_eval.core.records import Architecture, CheckpointRef, Column, Normalisation, Slice
from robust_eval.core.threat import parse_threat
from robust_eval.plan import SPLIT, Request, pack

MEASURED = Path(__file__).with_name("simulate_board.json")
GPUS = (1, 8, 32, 100, 316, 1000)
KEEP = 4
QUERIES = 8192
"""Of SPSA in one call."""
CALL_SECONDS = 0.005
"""What a call costs whatever its size: starting the layers of a WRN-34-10. An assumption."""
# Fractions of all images that are left: AT-AWP, Table 2 of the AWP paper; the phases of AutoAttack between
# its PGD-100 and AutoAttack columns are ours, FAB and Square all but empty as is usual.
LEFT = {
    "clean": 0.8557,
    "fgsm": 0.629,
    "pgd-20": 0.5814,
    "pgd-100": 0.5794,
    "cw-inf": 0.5596,
    "spsa": 0.62,
    "apgd-ce": 0.575,
    "apgd-t": 0.5406,
    "fab-t": 0.5405,
    "square": 0.5404,
}


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes of the machine that ``--measure`` ran on."""

    load_seconds: float
    """A WRN-34-10 checkpoint from disk into memory, with its hash."""
    driver_seconds: float
    """What the driver does with a unit of 500: read the verdicts, write and flush the file."""
    task_seconds: float
    """A task's way to an idle Ray worker and back."""
    spread: float
    """Standard deviation of the logarithm of equal units' durations."""
    task_bytes: int
    """A unit's question: options, request and indices."""
    unit_bytes: int
    """A unit's file where all of 500 CIFAR-10 images are broken."""
    model_bytes: int
    flops: float
    """Of one forward pass of a WRN-34-10 on one image; a multiplication with its addition counts as two."""


def measure() -> Measured:
    """Everything that can be measured without a GPU."""
    import numpy as np
    import torch

    from robust_eval import models, store
    from robust_eval.core.records import UnitResult, Verdicts
    from robust_eval.models import checkpoint
    from robust_eval.models.tuning import flops
    from robust_eval.prepare import Options
    from robust_eval.waves import Waves

    random_ = np.random.default_rng(0)
    network = models.build("wrn-34-10", classes=10, channels=3, image_size=(32, 32)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wrn.pt"
        checkpoint.save(
            path,
            network,
            architecture=Architecture("wrn-34-10"),
            normalisation=Normalisation("none"),
            classes=10,
            channels=3,
            image_size=(32, 32),
            dataset="cifar10",
        )
        start = time.perf_counter()
        checkpoint.load(str(path), images=None, device="cpu")
        load_seconds = time.perf_counter() - start
        n = 500
        clean = random_.integers(0, 256, (n, 3, 32, 32)) / 255
        adv = np.clip(clean + random_.choice([-1, 1], clean.shape) * 8 / 255, 0, 1).astype(np.float32)
        yes, whole = np.ones(n, bool), np.arange(n)
        verdicts = Verdicts(whole, whole, whole, whole, whole * 0.1, yes, yes, yes, ~yes)
        packed = store.pack("k", UnitResult(verdicts, adv, 1, 1, 1.0))
        place = store.open_run(Path(folder) / "run", {"a": 1})
        start = time.perf_counter()
        for i in range(20):
            store.unpack("k", packed, images=False)
            place.put_packed(str(i), packed)
        driver_seconds = (time.perf_counter() - start) / 20
    request = board_request(0)
    unit = Waves(request).open()[0].units[0]
    asked = (Options(checkpoint="c.pt"), request, None, unit)
    with torch.no_grad():
        per_image = float(flops(network, torch.zeros(1, 3, 32, 32)))
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    return Measured(
        load_seconds=load_seconds,
        driver_seconds=driver_seconds,
        task_seconds=_round_trip(),
        spread=_spread(network),
        task_bytes=len(pickle.dumps(asked)),
        unit_bytes=len(packed),
        model_bytes=len(content.getvalue()),
        flops=per_image,
    )


def _round_trip() -> float:
    import ray

    from robust_eval.executors import cluster

    cluster.connect(cluster.Wanted(address="local", workers=1, object_store=100 * 2**20), "cpu")

    class Echo:
        def echo(self, value: bytes) -> bytes:
            return value

    worker = ray.remote(num_cpus=1)(Echo).remote()
    ray.get(worker.echo.remote(b""))
    start = time.perf_counter()
    for _ in range(200):
        ray.get(worker.echo.remote(b"x" * 20_000))
    seconds = (time.perf_counter() - start) / 200
    ray.shutdown()
    return seconds


def _spread(network: object) -> float:
    """Of equal passes on this machine; a GPU's own are closer together, a cluster's are not."""
    import statistics

    import torch

    assert isinstance(network, torch.nn.Module)
    times = []
    with torch.no_grad():
        for _ in range(12):
            start = time.process_time()
            network(torch.zeros(1, 3, 32, 32))
            times.append(math.log(time.process_time() - start))
    return statistics.stdev(times[2:])


def board_request(number: int, *, split: int = SPLIT) -> Request:
    """``full`` on all of CIFAR-10's test images, as the command plans it on a GPU."""
    suite = suites.load("full")
    families = sorted({attack.family for column in suite.columns for attack in column.attacks})
    return Request(
        checkpoint=CheckpointRef(
            f"{number}.pt", f"{number:064d}", Architecture("wrn-34-10"), 10, Normalisation("none"), "foreign"
        ),
        data=Slice("cifar10", "test", 10_000, "0" * 64, tuple("0123456789"), "stored"),
        threat=parse_threat("Linf", "8/255"),
        suite=suite,
        batch_size=500,
        seed=0,
        libraries=tuple((name, "1") for name in families),
        split=split,
    )


@dataclass(frozen=True)
class Policy:
    name: str
    parallel: bool = True
    """Columns of a run do not wait for each other."""
    longest: bool = True
    """The unit that holds up the longest chain first; else in the order of the suite."""
    split: int = SPLIT
    long_cut: bool = True
    """Long attacks are cut finer."""


POLICIES = (
    Policy("as built"),
    Policy("long attacks in full batches", long_cut=False),
    Policy("everything in full batches", split=1),
    Policy("suite order", longest=False),
    Policy("one column after the other", parallel=False, longest=False),
)


@dataclass(frozen=True)
class Piece:
    """A unit of the simulation."""

    run: int
    column: int
    stage: int
    images: int
    passes: float
    calls: float
    """Of the network, for all its images together."""


@dataclass(frozen=True)
class Outcome:
    makespan: float
    work: float
    chain: float
    """The longest sequence of waves that have to wait for each other, each unit on a GPU of its own."""
    units: int
    loads: int
    driver: float
    """Seconds the driver was busy."""

    def efficiency(self, gpus: int) -> float:
        return self.work / (gpus * self.makespan)


class Board:
    """Which units a run has, wave by wave; equal for all runs."""

    def __init__(self, request: Request, *, long_cut: bool = True) -> None:
        self._long_cut = long_cut
        n = request.data.n
        self.columns: list[list[list[Piece]]] = []
        right = round(LEFT["clean"] * n)
        self.clean = [Piece(0, -1, 0, len(part), 1.0, 1.0) for part in pack(request, range(n))]
        for number, column in enumerate(c for c in request.suite.columns if c.attacks):
            self.columns.append(self._column(request, number, column, right))

    def _column(self, request: Request, number: int, column: Column, right: int) -> list[list[Piece]]:
        waves, left = [], right
        for stage, attack in enumerate(column.attacks):
            cost = attacks.cost(attack, request.checkpoint.classes)
            passes = float(cost.forwards + cost.backwards)
            after = min(left, round(LEFT[attack.id] * request.data.n))
            if attack.family == "spsa" or attack.id == "square":
                # These stop for an image as soon as it is broken: half of the way, say.
                passes *= (after + 0.5 * (left - after)) / max(left, 1)
            cut = pack(request, range(left), int(cost.forwards + cost.backwards) if self._long_cut else 0)
            waves.append(
                [
                    # SPSA puts the queries of many images into one call.
                    Piece(
                        0,
                        number,
                        stage,
                        len(part),
                        passes,
                        passes * len(part) / QUERIES if attack.family == "spsa" else passes,
                    )
                    for part in cut
                ]
            )
            left = after
        return waves


def simulate(
    measured: Measured, gpus: int, runs: int, policy: Policy, tflops: float, seed: int = 0
) -> Outcome:
    """Play a board through; seconds."""
    board = Board(board_request(0, split=policy.split), long_cut=policy.long_cut)
    draw = random.Random(seed)
    per_pass = measured.flops / (tflops * 1e12)

    def seconds(piece: Piece, noisy: bool = True) -> float:
        work = piece.passes * piece.images * per_pass + piece.calls * CALL_SECONDS
        return work * (math.exp(draw.gauss(0, measured.spread)) if noisy else 1.0)

    rest = [
        [sum(seconds(wave[0], False) for wave in column[stage:]) for stage in range(len(column))]
        for column in board.columns
    ]
    counter = itertools.count()
    ready: dict[int, list[tuple[float, int, Piece]]] = {}
    missing: dict[tuple[int, int, int], int] = {}

    def add(run: int, column: int, stage: int) -> None:
        pieces = board.clean if column < 0 else board.columns[column][stage]
        urgency = -rest[column][stage] if policy.longest and column >= 0 else float(column)
        missing[run, column, stage] = len(pieces)
        for piece in pieces:
            entry = (urgency, next(counter), replace(piece, run=run, column=column))
            heapq.heappush(ready.setdefault(run, []), entry)

    def finish(piece: Piece) -> None:
        key = (piece.run, piece.column, piece.stage)
        missing[key] -= 1
        if missing[key]:
            return
        if piece.column < 0:
            for column in range(len(board.columns)) if policy.parallel else (0,):
                add(piece.run, column, 0)
        elif piece.stage + 1 < len(board.columns[piece.column]):
            add(piece.run, piece.column, piece.stage + 1)
        elif not policy.parallel and piece.column + 1 < len(board.columns):
            add(piece.run, piece.column + 1, 0)

    loaded: list[dict[int, None]] = [{} for _ in range(gpus)]
    idle, unopened = list(range(gpus)), list(range(runs))
    events: list[tuple[float, int, int, Piece]] = []
    now = driver_free = driver_busy = work = 0.0
    units = loads = 0

    def feed() -> None:
        nonlocal work, units, loads
        waiting = sum(len(heap) for heap in ready.values())
        while idle:
            while unopened and waiting < gpus:
                add(unopened.pop(0), -1, 0)
                waiting += len(board.clean)
            if not waiting:
                return
            gpu = idle.pop()
            run = min(ready, key=lambda r: (r not in loaded[gpu], r))
            piece = heapq.heappop(ready[run])[2]
            waiting -= 1
            if not ready[run]:
                del ready[run]
            duration = seconds(piece)
            work, units = work + duration, units + 1
            start = driver_free + measured.task_seconds
            if run not in loaded[gpu]:
                if len(loaded[gpu]) == KEEP:
                    del loaded[gpu][next(iter(loaded[gpu]))]
                loaded[gpu][run] = None
                start, loads = start + measured.load_seconds, loads + 1
            heapq.heappush(events, (start + duration, next(counter), gpu, piece))

    feed()
    while events:
        now, _, gpu, piece = heapq.heappop(events)
        driver_free = max(driver_free, now) + measured.driver_seconds
        driver_busy += measured.driver_seconds
        finish(piece)
        idle.append(gpu)
        feed()
    chain = max(column[0] for column in rest)
    return Outcome(max(now, driver_free), work, chain, units, loads, driver_busy)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def show(console: Console, measured: Measured, given: argparse.Namespace) -> None:
    table = Table(title=f"{given.runs} checkpoints x 10,000 images x full, WRN-34-10")
    for header in ("GPUs", "ideal", *(policy.name for policy in POLICIES), "driver busy", "loads"):
        table.add_column(header, justify="right")
    for gpus in given.gpus:
        found = [simulate(measured, gpus, given.runs, policy, given.tflops) for policy in POLICIES]
        built = found[0]
        table.add_row(
            str(gpus),
            hours(built.work / gpus),
            *(f"{hours(one.makespan)} ({100 * built.work / gpus / one.makespan:.0f}%)" for one in found),
            f"{100 * built.driver / built.makespan:.1f}%",
            str(built.loads),
        )
    console.print(table)
    built = simulate(measured, 8, given.runs, POLICIES[0], given.tflops)
    per_row = built.work / given.runs
    console.print(
        f"Per row: {per_row / 3600:.2f} GPU hours, at {given.price:.2f} each "
        f"{given.price * per_row / 3600:.2f}"
    )
    console.print(f"Longest chain of one checkpoint, a GPU for every unit: {hours(built.chain)}")
    console.print(
        f"Per unit: {measured.task_bytes / 1e3:.0f} kB there, at most {measured.unit_bytes / 1e6:.1f} MB "
        f"back; {built.units} units, {built.driver / 60:.1f} min of the driver in all"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure the input here, and keep it")
    parser.add_argument("--runs", type=options.count, default=100)
    parser.add_argument("--gpus", type=options.counts, default=list(GPUS))
    parser.add_argument(
        "--tflops",
        type=options.positive,
        default=100.0,
        help="what a GPU reaches in the search; an assumption",
    )
    parser.add_argument("--price", type=options.positive, default=2.0, help="of a GPU hour; an assumption")
    given = parser.parse_args(words)
    if given.measure:
        MEASURED.write_text(json.dumps(asdict(measure()), indent=1) + "\n")
    show(Console(), Measured(**json.loads(MEASURED.read_text())), given)


if __name__ == "__main__":
    options.guarded(main)
