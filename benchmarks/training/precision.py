"""Robust accuracy after the same short training in float32 and in bfloat16, over several seeds.

Measured with PGD-20 in float32 on test images, at the last epoch. The precisions agree if the difference
of their means is at most the range over the seeds.

Examples:
  python -m benchmarks.training.precision                   digits, 15 epochs, 3 seeds
  python -m benchmarks.training.precision --data mnist --data-root DIR --epochs 2 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import options

PRECISIONS = ("32", "bf16")
Figures = Mapping[str, list[dict[str, float]]]
"""One row per seed, by precision: ``clean`` and ``pgd`` as fractions, ``seconds`` of training."""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="at-awp")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--arch", help="default: that of the dataset")
    parser.add_argument("--epochs", type=options.count, default=15)
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of the recipe; repeatable")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--examples", type=options.count, default=1000, help="number of attacked test images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--threads", type=options.count)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/precision"), help="folder for the runs and the figures"
    )
    return parser.parse_args(words)


def trained(given: argparse.Namespace, precision: str, seed: int, console: Console) -> dict[str, float]:
    """Train one run, or continue an interrupted one, and measure the last epoch."""
    import torch

    from defenses.recipes.choices import Choices
    from defenses.training.accuracy import measure_accuracies
    from defenses.training.batches import build_pool
    from defenses.training.display import ConsoleTrainingDisplay
    from defenses.training.job import prepare
    from defenses.training.options import TrainOptions
    from defenses.training.resume_file import FILE
    from defenses.training.runtime import start_runtime
    from defenses.training.signals import InterruptHandler
    from defenses.training.trainer import train
    from robust_eval import data
    from robust_eval.models.loading import checkpoint

    folder = given.out / f"{given.recipe}-{precision}-s{seed}"
    choices = Choices(data=given.data, arch=given.arch, epochs=given.epochs, sets=tuple(given.set))
    options = TrainOptions(
        recipe=given.recipe,
        choices=choices,
        data_root=given.data_root,
        seed=seed,
        device=given.device,
        precision=precision,
        compile=given.compile,
        out=folder,
        resume=(folder / FILE).exists(),
        tensorboard=False,
    )
    job, runtime = prepare(options), start_runtime(given.device, precision, 1)
    outcome = train(job, runtime, ConsoleTrainingDisplay(console), InterruptHandler())
    test = data.load(given.data, root=given.data_root, split="test")
    images = test.take(min(given.examples, test.n))
    loaded = checkpoint.load(str(folder / "last.pt"), images=images, device=runtime.device)

    def forward(x_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NK: torch.Tensor = loaded.model(x_NCHW)
        return logits_NK

    found = measure_accuracies(loaded.model, build_pool([images], runtime.device), job.recipe, forward)
    seconds = sum(float(line.split(",")[-1]) for line in (folder / "curve.csv").read_text().splitlines()[1:])
    return {
        "seed": seed,
        "clean": found.clean,
        "pgd": found.pgd,
        "seconds": seconds,
        "epochs": outcome.epochs,
    }


def verdict(figures: Figures) -> tuple[float, float, bool]:
    """(difference of the mean robust accuracies, range over the seeds, whether it is within the range).

    The range is the larger one of the two precisions. Two means of the same distribution are almost always
    closer than that.
    """
    values = [[row["pgd"] for row in figures[precision]] for precision in PRECISIONS]
    difference = statistics.fmean(values[1]) - statistics.fmean(values[0])
    seed_range = max(max(found) - min(found) for found in values)
    return difference, seed_range, abs(difference) <= seed_range


def table(given: argparse.Namespace, figures: Figures) -> Table:
    shown = Table(title=f"{given.recipe}, {given.data}, {given.epochs} epochs, {given.examples} test images")
    for heading in ("precision", "clean %", "PGD %", "seeds' PGD %", "train s"):
        shown.add_column(heading, justify="left" if heading == "precision" else "right")
    for precision, rows in figures.items():
        clean, pgd, seconds = ([row[name] for row in rows] for name in ("clean", "pgd", "seconds"))
        deviation = statistics.stdev(pgd) if len(pgd) > 1 else 0.0
        shown.add_row(
            precision,
            f"{100 * statistics.fmean(clean):.2f}",
            f"{100 * statistics.fmean(pgd):.2f} ± {100 * deviation:.2f}",
            " ".join(f"{100 * value:.1f}" for value in pgd),
            f"{statistics.fmean(seconds):.0f}",
        )
    difference, seed_range, within = verdict(figures)
    shown.caption = (
        f"bf16 - 32: {100 * difference:+.2f} points, {'within' if within else 'beyond'} the range over seeds "
        f"of {100 * seed_range:.2f}."
    )
    return shown


def main(words: Sequence[str] | None = None) -> None:
    given, console = parse(words), Console()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from defenses.training.seeds import parse_seeds

    if given.threads:
        torch.set_num_threads(given.threads)
    seeds = parse_seeds(given.seeds)
    options.folder(given.out)
    figures: dict[str, list[dict[str, float]]] = {}
    for precision in PRECISIONS:
        for seed in seeds:
            console.print(f"{given.recipe}, {given.data}, {precision}, seed {seed}")
            figures.setdefault(precision, []).append(trained(given, precision, seed, console))
    console.print(table(given, figures))
    difference, seed_range, within = verdict(figures)
    settings = {n: str(v) if isinstance(v, Path) else v for n, v in vars(given).items() if n != "data_root"}
    content: dict[str, Any] = {"settings": settings, "figures": figures}
    content |= {"difference": difference, "spread": seed_range, "within": within}
    path = given.out / "precision.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console.print(f"Figures: {path}")


if __name__ == "__main__":
    options.guarded(main)
