"""Seconds and peak memory of ``--suite full`` beside a plain script with ART and pyautoattack.

Examples:
  python -m benchmarks                                    digits, and MNIST where its files are
  python -m benchmarks --data-root DIR --examples 200     MNIST from DIR; 200 examples of each
  python -m benchmarks --checkpoint model.pt --data npz:images.npz --eps 8/255
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.side import Report

SIDES = {"robust-eval": "benchmarks.full_suite", "plain": "benchmarks.plain_script"}


@dataclass(frozen=True)
class Case:
    """What both sides attack."""

    name: str
    data: str
    eps: str
    examples: int


CASES = (Case("digits", "digits", "0.1", 200), Case("mnist", "mnist", "0.3", 25))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=[case.name for case in CASES], help="this case alone")
    parser.add_argument("--examples", type=int, help="examples of each case")
    parser.add_argument("--batch-size", type=int, default=250, help="of both sides (default 250)")
    parser.add_argument("--threads", type=int, help="CPU threads of each side (default: torch's choice)")
    parser.add_argument("--data-root", type=Path, help="folder with the dataset's files")
    parser.add_argument("--checkpoint", type=Path, help="attack this file; needs --data and --eps")
    parser.add_argument("--data", help="images for --checkpoint")
    parser.add_argument("--eps", help="Linf radius for --checkpoint")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="models and figures")
    given = parser.parse_args(words)
    if given.checkpoint and not (given.data and given.eps):
        parser.error("--checkpoint needs --data and --eps")
    return given


def cases(given: argparse.Namespace) -> list[Case]:
    if given.checkpoint:
        return [Case(given.checkpoint.stem, given.data, given.eps, given.examples or 100)]
    chosen = [case for case in CASES if given.case in (None, case.name)]
    return [Case(case.name, case.data, case.eps, given.examples or case.examples) for case in chosen]


def child(module: str, *options: str, threads: int | None) -> subprocess.CompletedProcess[str]:
    """Run a module in a process of its own; its standard error is kept for the message."""
    # Threads that spin while they wait make small networks many times slower where cores are shared.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)


def measure(case: Case, given: argparse.Namespace, console: Console) -> dict[str, Report] | None:
    """Both sides of a case; None, after a visible line, where its inputs cannot be had."""
    folder = (given.out / case.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--data", case.data, "--eps", case.eps, "--examples", str(case.examples)]
    options += ["--folder", str(folder)]
    options += ["--data-root", str(given.data_root.resolve())] if given.data_root else []
    options += ["--checkpoint", str(given.checkpoint.resolve())] if given.checkpoint else []
    console.print(f"{case.name}: model and {case.examples} images")
    prepared = child("benchmarks.prepare", *options, threads=given.threads)
    if prepared.returncode:
        console.print(f"[yellow]{case.name}: skipped.[/] {_last_line(prepared.stderr)}")
        return None
    reports = {}
    for side, module in SIDES.items():
        console.print(f"{case.name}: {side}")
        out = folder / f"{side}.json"
        options = ["--folder", str(folder), "--eps", case.eps, "--batch-size", str(given.batch_size)]
        done = child(module, *options, "--out", str(out), threads=given.threads)
        if done.returncode:
            sys.exit(f"{case.name}: {side} failed.\n{done.stderr}")
        reports[side] = Report.read(out)
    return reports


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "No reason given."


def table(case: Case, ours: Report, plain: Report) -> Table:
    """Accuracy and seconds per column, the number of examples judged differently, totals and memory."""
    shown = Table(title=f"{case.name}: {case.examples} examples, Linf {case.eps} (ours: robust-eval)")
    for heading in ("", "ours %", "plain %", "differ", "ours s", "plain s", "plain / ours"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, mine in ours.columns.items():
        other = plain.columns[name]
        differ = sum(a != b for a, b in zip(mine.bits, other.bits, strict=True))
        accuracies = f"{100 * mine.accuracy:.1f}", f"{100 * other.accuracy:.1f}"
        shown.add_row(name, *accuracies, str(differ), *_pair(mine.seconds, other.seconds, 1))
    shown.add_section()
    shown.add_row("total", "", "", "", *_pair(ours.seconds, plain.seconds, 1))
    processor = _pair(ours.processor_seconds, plain.processor_seconds, 1)
    shown.add_row("processor s", "", "", "", *processor)
    shown.add_row("peak MiB", "", "", "", *_pair(ours.peak_mib, plain.peak_mib, 0))
    return shown


def _pair(ours: float, plain: float, digits: int) -> tuple[str, str, str]:
    ratio = f"{plain / ours:.2f}" if ours else ""
    return f"{ours:.{digits}f}", f"{plain:.{digits}f}", ratio


def main(words: Sequence[str] | None = None) -> None:
    given, console = parse(words), Console()
    figures = []
    for case in cases(given):
        reports = measure(case, given, console)
        if reports:
            console.print(table(case, reports["robust-eval"], reports["plain"]))
            sides = {side: asdict(report) for side, report in reports.items()}
            figures.append({"case": asdict(case), "batch_size": given.batch_size, "sides": sides})
    machine = {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}
    path = given.out / "benchmark.json"
    path.write_text(json.dumps({"machine": machine, "cases": figures}, indent=1) + "\n", encoding="utf-8")
    console.print(f"Figures: {path}")


if __name__ == "__main__":
    main()
