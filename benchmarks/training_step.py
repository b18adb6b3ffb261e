"""Seconds and peak memory of a training step beside the two-network formulation of AWP.

AT and AT-AWP (PGD-10, PreAct ResNet-18 by default) in float32 and bfloat16, each in a process of its own.

Examples:
  python -m benchmarks.training_step
  python -m benchmarks.training_step --device cuda --batch-size 128 --repeats 20
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SIDES = ("two-networks", "ours")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arch", default="preact-resnet-18")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps; their median is reported")
    parser.add_argument("--precision", choices=["32", "bf16"], help="this one alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    return parser.parse_args(words)


def child(given: argparse.Namespace, side: str, precision: str, awp: bool) -> dict[str, float]:
    options = ["--side", side, "--precision", precision, "--arch", given.arch, "--device", given.device]
    options += ["--batch-size", str(given.batch_size), "--attack-steps", str(given.attack_steps)]
    options += ["--repeats", str(given.repeats), *(["--awp"] if awp else [])]
    command = [sys.executable, "-m", "benchmarks.training_side", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} {precision}: failed.\n{done.stderr}")
    report: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return report


def measure(given: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    figures = []
    for precision in ("32", "bf16") if given.precision is None else (given.precision,):
        for side in SIDES:
            for awp in (False, True):
                console.print(f"{side}, {'AT-AWP' if awp else 'AT'}, {precision}")
                found = child(given, side, precision, awp)
                figures.append({"side": side, "precision": precision, "awp": awp, **found})
    return figures


def table(given: argparse.Namespace, figures: list[dict[str, Any]]) -> Table:
    """Seconds per step, AWP's extra over AT on the same side, and peak memory over AT's.

    On a busy machine the processor seconds say more than those on the clock.
    """
    shown = Table(title=f"{given.arch}, PGD-{given.attack_steps}, batch {given.batch_size}, {given.device}")
    left = ("precision", "side", "method")
    for heading in (*left, "s", "CPU s", "img/s", "AWP", "peak MiB", "extra MiB"):
        shown.add_column(heading, justify="left" if heading in left else "right")
    plain = {(f["side"], f["precision"]): f for f in figures if not f["awp"]}
    for f in figures:
        at = plain[f["side"], f["precision"]]
        extra = f"{100 * (f['seconds'] / at['seconds'] - 1):+.1f}%" if f["awp"] else ""
        memory = f"{f['peak_mib'] - at['peak_mib']:.0f}" if f["awp"] else ""
        shown.add_row(
            f["precision"],
            f["side"],
            "AT-AWP" if f["awp"] else "AT",
            f"{f['seconds']:.3f}",
            f"{f['cpu_seconds']:.3f}",
            f"{given.batch_size / f['seconds']:.1f}",
            extra,
            f"{f['peak_mib']:.0f}",
            memory,
        )
    shown.caption = f"One copy of the weights is {figures[0]['weights_mib']:.0f} MiB."
    return shown


def main(words: Sequence[str] | None = None) -> None:
    given, console = parse(words), Console()
    figures = measure(given, console)
    console.print(table(given, figures))
    if given.out is not None:
        settings = {name: value for name, value in vars(given).items() if name != "out"}
        given.out.write_text(json.dumps({"settings": settings, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
