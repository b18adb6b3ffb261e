"""The numbers in the text of docs/gallery.md, from the files written by its commands; a test compares both.

usage: python -m scripts.gallery.numbers RUNS > docs/tables/gallery.json      (RUNS: runs/gallery)
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any


def numbers(runs: Path) -> dict[str, Any]:
    """All numbers, rounded as in the text."""
    curve, hessian = read(runs / "landscape/landscape-1d.json"), read(runs / "hessian/hessian.json")
    return {
        "sharpness": {
            one["label"]: [round(one["flatness"][key], 2) for key in ("sharpness", "sharpness_std")]
            for one in curve["checkpoints"]
        },
        "last_gap": {
            name: [last_gap(runs / "long" / folder / seed) for seed in ("s0", "s1")]
            for name, folder in (("AT", "at"), ("AT-AWP", "at-awp"))
        },
        "spearman": round(read(runs / "gap-flatness.json")["correlation"]["spearman"], 2),
        "largest_eigenvalue": {
            one["label"]: round(one["value"], 1) for one in hessian["eigenvalues"] if one["rank"] == 1
        },
        "barrier": round(read(runs / "connectivity/connectivity.json")["barrier_nats"], 2),
        "threshold": round(read(runs / "linear-experiment.json")["predicted_threshold"], 3),
    }


def last_gap(run: Path) -> float:
    """Training minus test robust accuracy at the last epoch, in percentage points."""
    with (run / "curve.csv").open(encoding="utf-8", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    return round(100 * (float(row["train_pgd"]) - float(row["test_pgd"])), 1)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    print(json.dumps(numbers(Path(sys.argv[1])), indent=1))
