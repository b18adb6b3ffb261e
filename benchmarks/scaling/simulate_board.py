"""Simulate how long the evaluations of a leaderboard take on 1 to 1,000 GPUs.

``python -m benchmarks.scaling.simulate_board`` simulates ``robust-eval run --executor ray`` for 100
checkpoints, 10,000 images and the suite ``full``: the units of ``robust_eval.evaluation.planning.units``, the
same order of tasks, one driver that handles one result at a time, and workers that load a checkpoint before
their first unit of it. The time of a pass on a GPU is an assumption (``--tflops``); the other times were
measured (``--measure`` repeats it). The fraction of images that each attack leaves is that of AT-AWP in the
AWP paper.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import options
from benchmarks.scaling.board.measured import Measured, measure
from benchmarks.scaling.board.scheduler import POLICIES, simulate

MEASURED = Path(__file__).with_name("simulate_board.json")
GPUS = (1, 8, 32, 100, 316, 1000)


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
    per_checkpoint = built.work / given.runs
    console.print(
        f"Per checkpoint: {per_checkpoint / 3600:.2f} GPU hours, at {given.price:.2f} each "
        f"{given.price * per_checkpoint / 3600:.2f}"
    )
    console.print(f"Critical path of one checkpoint, with one GPU per unit: {hours(built.chain)}")
    console.print(
        f"Per unit: {measured.task_bytes / 1e3:.0f} kB sent, at most {measured.unit_bytes / 1e6:.1f} MB "
        f"returned; {built.units} units, {built.driver / 60:.1f} min of driver time in total"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--measure", action="store_true", help="measure the inputs on this machine and store them"
    )
    parser.add_argument("--runs", type=options.count, default=100)
    parser.add_argument("--gpus", type=options.counts, default=list(GPUS))
    parser.add_argument(
        "--tflops",
        type=options.positive,
        default=100.0,
        help="speed of a GPU during the attacks (an assumption)",
    )
    parser.add_argument(
        "--price", type=options.positive, default=2.0, help="price of a GPU hour (an assumption)"
    )
    given = parser.parse_args(words)
    if given.measure:
        MEASURED.write_text(json.dumps(asdict(measure()), indent=1) + "\n")
    show(Console(), Measured(**json.loads(MEASURED.read_text())), given)


if __name__ == "__main__":
    options.guarded(main)
