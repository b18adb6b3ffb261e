"""Speed-up of two Ray workers over one, and overhead of one worker over a run without Ray.

Run with ``python -m benchmarks.scaling.ray CKPT``. Each side is a ``robust-eval run`` command with one thread
per worker. ``seconds`` is the time of the command; ``working`` is the time from the first to the last unit's
file, without starting and loading. All sides must give the same verdicts. Needs one idle core per worker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import options
from robust_eval.core.errors import UserError

SIDES = {
    "this process": [],
    "Ray, 1 worker": ["--executor", "ray", "--address", "local", "--workers", "1"],
    "Ray, 2 workers": ["--executor", "ray", "--address", "local", "--workers", "2"],
}


@dataclass(frozen=True)
class Side:
    """Times and verdicts of one command."""

    name: str
    seconds: float
    working: float
    units: int
    bits: dict[str, str]


def run(name: str, words: list[str], given: argparse.Namespace, folder: Path) -> Side:
    """Run the command of one side. Raises :class:`UserError` if it fails."""
    command = [sys.executable, "-m", "robust_eval.cli", "run", str(given.checkpoint), *words]
    command += ["--suite", given.suite, "--examples", str(given.examples), "--out", str(folder)]
    command += ["--data", given.data, "--device", "cpu"]
    for option, value in (("--eps", given.eps), ("--data-root", given.data_root)):
        command += [] if value is None else [option, str(value)]
    if given.batch_size:
        command += ["--batch-size", str(given.batch_size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    start = time.perf_counter()
    done = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{name}: {options.last_line(done.stderr)}")
    seconds = time.perf_counter() - start
    times = sorted(path.stat().st_mtime for path in (folder / "units").glob("*.npz"))
    result = json.loads((folder / "result.json").read_text())
    bits = {column: found["robust_bits"] for column, found in result["columns"].items()}
    return Side(name, seconds, times[-1] - times[0], len(times), bits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=options.file)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--eps")
    parser.add_argument("--suite", default="full")
    parser.add_argument("--examples", type=options.count, default=128)
    parser.add_argument("--batch-size", type=int, default=16, help="0: the default for the image size")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    given = parser.parse_args()
    if given.batch_size < 0:
        parser.error("--batch-size must be 0 or more")
    if given.out is not None:
        options.folder(given.out.parent)
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, words) in enumerate(SIDES.items()):
            sides.append(run(name, words, given, Path(folder) / str(number)))
    if any(side.bits != sides[0].bits for side in sides):
        sys.exit("The verdicts of the sides differ.")
    alone, one, two = sides
    table = Table(title=f"{given.checkpoint.name}, {given.suite}, {given.examples} of {given.data}")
    for header in ("side", "seconds", "working", "units"):
        table.add_column(header, justify="left" if header == "side" else "right")
    for side in sides:
        table.add_row(side.name, f"{side.seconds:.1f}", f"{side.working:.1f}", str(side.units))
    console = Console()
    console.print(table)
    figures = {
        "speed-up of two workers over one, working": one.working / two.working,
        "speed-up of two workers over one, whole command": one.seconds / two.seconds,
        "overhead of Ray with one worker, working": one.working / alone.working - 1,
        "overhead of Ray with one worker, whole command": one.seconds / alone.seconds - 1,
    }
    for name, value in figures.items():
        console.print(
            f"{name}: {value:.2f}x" if name.startswith("speed-up") else f"{name}: {100 * value:.1f}%"
        )
    if given.out:
        records = [{**asdict(side), "bits": None} for side in sides]
        given.out.write_text(json.dumps({"sides": records, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    options.guarded(main)
