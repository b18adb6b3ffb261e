"""Cost of an evaluation against examples, model size and attack steps, and with ``full`` and ``union``.

Times are processor seconds of this process, after a short warm-up run.

Examples:
  python -m benchmarks.evaluation.cost_growth             a few minutes
  python -m benchmarks.evaluation.cost_growth --counts 100,400,1000,4000 --suite full
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import options
from robust_eval import attacks, data, evaluate
from robust_eval.core.types import Column, Suite
from robust_eval.evaluation.planning import suites
from robust_eval.models import architectures
from robust_eval.models.acceleration.tuning import flops
from robust_eval.results import EvalResult

EPS = "Linf 0.1"
WIDTHS = (4, 8, 16, 32)
STEPS = (10, 20, 50, 100)


def images(n: int) -> tuple[Tensor, Tensor]:
    """n test digits, repeated if there are fewer."""
    x, y = data.load("digits", split="test").tensors()
    chosen = torch.arange(n) % len(y)
    return x[chosen], y[chosen]


def network(width: int) -> nn.Module:
    """A digits-cnn, trained for a few seconds on noisy images, so that attacks find correct predictions."""
    torch.manual_seed(0)
    made = architectures.build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=width)
    x, y = data.load("digits", split="train").tensors()
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    for step in range(120):
        part = torch.arange(64 * step, 64 * step + 64) % len(y)
        noisy = (x[part] + 0.1 * torch.sign(torch.randn_like(x[part]))).clamp(0, 1)
        loss = nn.functional.cross_entropy(made(noisy), y[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return made.eval()


def line(what: str, value: object, model: nn.Module, n: int, suite: str | Suite) -> dict[str, Any]:
    x, y = images(n)
    started, busy = time.perf_counter(), time.process_time()
    result: EvalResult = evaluate(model, x, y, EPS, suite=suite)
    passes = result.worst_case.forwards + result.worst_case.backwards
    return {
        "what": what,
        "value": value,
        "examples": n,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - busy,
        "passes": passes,
        "operations": passes * flops(model, x),
        "worst_case": result.worst_case.accuracy,
    }


def pgd(steps: int) -> Suite:
    spec = attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps})
    return Suite("growth", 1, (suites.load("clean").columns[0], Column(spec.id, spec.id, (spec,))))


def lines(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    plain, n = network(WIDTHS[0]), min(given.counts)
    evaluate(plain, *images(8), EPS, suite="pgd-10,aa")
    for count in given.counts:
        yield line("examples", count, plain, count, given.suite)
    for width in WIDTHS:
        yield line("width", width, network(width), n, given.suite)
    for steps in STEPS:
        yield line("PGD steps", steps, plain, max(given.counts), pgd(steps))
    for suite in ("full", "union"):
        yield line("suite", suite, plain, n, suite)


def table(found: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title="How cost grows (digits-cnn, Linf 0.1)")
    for heading in ("", "value", "examples", "seconds", "CPU s", "CPU s / example", "passes / example"):
        shown.add_column(heading, justify="right" if heading else "left")
    for row in found:
        n = row["examples"]
        busy = row["processor_seconds"]
        figures = f"{row['seconds']:.1f}", f"{busy:.1f}", f"{busy / n:.3f}", f"{row['passes'] / n:,.0f}"
        shown.add_row(row["what"], str(row["value"]), str(n), *figures)
    return shown


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation.cost_growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--counts", type=options.counts, default=[50, 100, 200])
    parser.add_argument("--suite", default="full")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/growth.json"))
    given = parser.parse_args(words)
    suites.load(given.suite)
    options.folder(given.out.parent)
    console, found = Console(), []
    for row in lines(given):
        found.append(row)
        console.print(f"{row['what']} {row['value']}: {row['processor_seconds']:.1f} processor seconds")
    console.print(table(found))
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    options.guarded(main)
