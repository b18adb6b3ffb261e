"""Make run folders like those of finished training runs, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from defenses.runs.learning_curve import csv_text


def make_run(folder: Path, recipe: str = "at", seed: int = 0, **changes: Any) -> Path:
    """Make a run of three epochs; the second is best on held-out images, the third on test images."""
    data, norm, gamma = changes.get("data", "cifar10"), changes.get("norm", "Linf"), changes.get("gamma", 0.0)
    shift = changes.get("shift", 0.0)
    folder.mkdir(parents=True)
    record = {
        "dataset": data,
        "seed": seed,
        "recipe": {
            "name": recipe,
            "architecture": "preact-resnet-18",
            "threat": {"norm": norm, "eps": "8/255"},
            "inner": {"steps": 10},
            "perturbation": {"gamma": gamma},
            "training": {"epochs": 3},
            "selection": {"steps": 20, "test_images": 100},
        },
    }
    (folder / "run.json").write_text(json.dumps(record))
    rows: list[dict[str, float]] = [
        {"epoch": 1, "val_clean": 0.7, "val_pgd": 0.4, "test_clean": 0.72, "test_pgd": 0.41 + shift},
        {"epoch": 2, "val_clean": 0.75, "val_pgd": 0.5, "test_clean": 0.76, "test_pgd": 0.49 + shift},
        {"epoch": 3, "val_clean": 0.8, "val_pgd": 0.45, "test_clean": 0.82, "test_pgd": 0.5 + shift},
    ]
    if changes.get("test_measured", True) is False:
        rows = [{k: v for k, v in row.items() if not k.startswith("test")} for row in rows]
    (folder / "curve.csv").write_text(csv_text(rows))
    return folder
