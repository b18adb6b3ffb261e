"""Time and peak memory of a training step, compared with the two-network formulation of AWP.

AT and AT-AWP (PGD-10, PreAct ResNet-18 by default) in float32 and bfloat16, each in its own process.
Speed-ups are relative to the two-network step in float32, the setting of its authors.

Examples:
  python -m benchmarks.training.step
  python -m benchmarks.training.step --method at-awp --batch-size 16 --repeats 2 --threads 1
  python -m benchmarks.training.step --device cuda --batch-size 128 --repeats 20 --arch wrn-34-10
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import options
from robust_eval.core.errors import UserError

SIDES = ("two-networks", "ours", "ours-compiled")
METHODS = {"at": False, "at-awp": True}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arch", default="preact-resnet-18")
    parser.add_argument("--batch-size", type=options.count, default=64)
    parser.add_argument("--attack-steps", type=options.count, default=10)
    parser.add_argument(
        "--repeats", type=options.count, default=3, help="timed steps; their median is reported"
    )
    parser.add_argument("--precision", choices=["32", "bf16"], help="measure only this precision")
    parser.add_argument("--side", choices=SIDES, action="append", help="measure only this side; repeatable")
    parser.add_argument("--method", choices=list(METHODS), help="measure only this method")
    parser.add_argument("--device", type=options.device, default="cpu")
    parser.add_argument(
        "--threads", type=options.count, help="CPU threads of each side (default: the choice of torch)"
    )
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    return parser.parse_args(words)


def child(given: argparse.Namespace, side: str, precision: str, awp: bool) -> dict[str, float]:
    words = ["--side", side, "--precision", precision, "--arch", given.arch, "--device", given.device]
    words += ["--batch-size", str(given.batch_size), "--attack-steps", str(given.attack_steps)]
    words += ["--repeats", str(given.repeats), *(["--awp"] if awp else [])]
    command = [sys.executable, "-m", "benchmarks.training.side", *words]
    # OpenMP threads that spin while waiting slow small networks down many times on shared cores.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if given.threads:
        environment |= {"OMP_NUM_THREADS": str(given.threads), "MKL_NUM_THREADS": str(given.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == UserError.exit_code:
        raise UserError(options.last_line(done.stderr))
    if done.returncode:
        sys.exit(f"{side} {precision}: failed.\n{done.stderr}")
    report: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return report


def measure(given: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    figures = []
    for precision in ("32", "bf16") if given.precision is None else (given.precision,):
        for side in given.side or SIDES:
            for method, awp in METHODS.items():
                if given.method in (None, method):
                    console.print(f"{side}, {method}, {precision}")
                    found = child(given, side, precision, awp)
                    figures.append({"side": side, "precision": precision, "awp": awp, **found})
    return figures


def table(given: argparse.Namespace, figures: list[dict[str, Any]]) -> Table:
    """Seconds per step, speed-up over two networks in float32, and cost of AWP over AT on the same side.

    On a busy machine, processor time is more reliable than wall time.
    """
    shown = Table(title=f"{given.arch}, PGD-{given.attack_steps}, batch {given.batch_size}, {given.device}")
    left = ("precision", "side", "method")
    right = ("s", "CPU s", "img/s", "speed", "CPU", "of rate", "AWP", "peak MiB", "extra MiB", "first s")
    for heading in (*left, *right):
        shown.add_column(heading, justify="left" if heading in left else "right")
    plain = {(f["side"], f["precision"]): f for f in figures if not f["awp"]}
    peer = {f["awp"]: f for f in figures if (f["side"], f["precision"]) == ("two-networks", "32")}
    for f in figures:
        at, theirs = plain.get((f["side"], f["precision"])) if f["awp"] else None, peer.get(f["awp"])
        shown.add_row(
            f["precision"],
            f["side"],
            "AT-AWP" if f["awp"] else "AT",
            f"{f['seconds']:.3f}",
            f"{f['cpu_seconds']:.3f}",
            f"{given.batch_size / f['seconds']:.1f}",
            f"{theirs['seconds'] / f['seconds']:.2f}x" if theirs else "",
            f"{theirs['cpu_seconds'] / f['cpu_seconds']:.2f}x" if theirs else "",
            f"{100 * f['share']:.0f}%",
            f"{100 * (f['seconds'] / at['seconds'] - 1):+.1f}%" if at else "",
            f"{f['peak_mib']:.0f}",
            f"{f['peak_mib'] - at['peak_mib']:.0f}" if at else "",
            f"{f['first_seconds']:.1f}",
        )
    shown.caption = (
        f"One copy of the weights is {figures[0]['weights_mib']:.0f} MiB. Speed: over two-networks in "
        "float32, by the clock and by processor seconds. Of rate: operations counted, over the matrix rate "
        "measured in the same process and precision. First: the step that allocates and compiles."
    )
    return shown


def main(words: Sequence[str] | None = None) -> None:
    given, console = parse(words), Console(width=None if sys.stdout.isatty() else 120)
    if given.out is not None:
        options.folder(given.out.parent)
    figures = measure(given, console)
    console.print(table(given, figures))
    if given.out is not None:
        settings = {name: value for name, value in vars(given).items() if name != "out"}
        machine = {"platform": platform.platform(), "cpus": os.cpu_count()}
        content = {"machine": machine, "settings": settings, "figures": figures}
        given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    options.guarded(main)
