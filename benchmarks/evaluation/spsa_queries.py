"""SPSA queries per second: in float32, compiled, and as changes of activations in bfloat16.

A query is the logits of an image plus a step of 0.001; each image has 256. The error is the norm of the
difference to float64 of the logits' changes, relative to their norm. Rates are the best of several calls;
the variants take turns.

Examples:
  python -m benchmarks.evaluation.spsa_queries --threads 1      small-cnn on images of 28x28
  python -m benchmarks.evaluation.spsa_queries --arch preact-resnet-18 --rows 64 --images 1
  python -m benchmarks.evaluation.spsa_queries --arch wrn-34-10 --device cuda --rows 1024 --images 16
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import options
from robust_eval.core.files import write_text

SAMPLES, STEP = 256, 1e-3


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation.spsa_queries",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch", default="small-cnn", help="architecture for images of 3x32x32; small-cnn: 1x28x28"
    )
    parser.add_argument(
        "--images", type=options.count, default=2, help="images per call, with 256 queries each"
    )
    parser.add_argument("--rows", type=options.count, default=128, help="queries per forward pass")
    parser.add_argument("--repeats", type=options.count, default=5)
    parser.add_argument("--device", type=options.device, default="cpu")
    parser.add_argument("--threads", type=options.count, help="CPU threads (default: the choice of torch)")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    return parser.parse_args(words)


def measured(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Queries per second (``rate``) and error of the logits' changes (``error``), by variant."""
    import torch

    from robust_eval.core.devices import full_precision
    from robust_eval.models import architectures
    from robust_eval.models.acceleration import frozen_copy, timing
    from robust_eval.models.acceleration.attack_model import query_steps
    from robust_eval.models.acceleration.tuning import Tuning

    if given.threads:
        torch.set_num_threads(given.threads)
    full_precision()
    torch.manual_seed(0)
    shape = (1, 28, 28) if given.arch == "small-cnn" else (3, 32, 32)
    network = architectures.build(given.arch, classes=10, channels=shape[0], image_size=shape[1:])
    network = network.to(given.device)
    x = torch.rand(max(given.images, 8), *shape, device=given.device)
    # Untrained, some last layers give logits of 0, and BatchNorm scales activations down.
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
        elif isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.1)
    with torch.no_grad():
        network.train()(x)
    network.eval().requires_grad_(False)
    signs = torch.randint(0, 2, (given.images, SAMPLES, *shape), device=given.device)
    steps, sample, x = (2 * signs - 1) * STEP, x[:8], x[: given.images]
    ways = {
        "float32": Tuning(given.rows, given.rows),
        "float32, compiled": Tuning(given.rows, given.rows, compiled=True),
        "changes in bfloat16, compiled": Tuning(given.rows, given.rows, near_rows=given.rows),
    }
    attack_copies = {
        name: frozen_copy.make_attack_copy(network, sample=sample, tuning=way) for name, way in ways.items()
    }
    calls = {name: partial(one.logits_at_steps, x, steps) for name, one in attack_copies.items()}
    changes = {name: call() - attack_copies["float32"](x)[:, None] for name, call in calls.items()}
    # The variants take turns, so that other load on the machine affects all of them.
    rounds = [
        {name: timing.time_call(call, x.device) for name, call in calls.items()} for _ in range(given.repeats)
    ]
    exact = network.double()
    truth = query_steps(exact, x.double(), steps.double()) - exact(x.double())[:, None]
    return {
        name: {
            "rate": given.images * SAMPLES / min(taken[name] for taken in rounds),
            "error": float((changes[name] - truth).norm() / truth.norm()),
        }
        for name in ways
    }


def table(found: Mapping[str, Mapping[str, float]]) -> Table:
    shown = Table("way", "queries a second", "speed", "error of the changes")
    base = next(iter(found.values()))["rate"]
    for name, one in found.items():
        shown.add_row(name, f"{one['rate']:.0f}", f"{one['rate'] / base:.2f}x", f"{one['error']:.2%}")
    return shown


def main(words: Sequence[str] | None = None) -> None:
    given = parse(words)
    found = measured(given)
    Console().print(table(found))
    if given.out:
        figures = {"arch": given.arch, "device": given.device, "threads": given.threads, "ways": found}
        write_text(given.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    options.guarded(main)
