"""The training benchmark: both sides perturb alike, and the table's arithmetic."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console

from benchmarks.training_step import main, parse, table
from benchmarks.two_networks import TwoNetworks
from defenses.resolve import Choices, resolve
from defenses.weight_perturbation import WeightPerturbation
from robust_eval import models


def test_both_sides_find_the_same_perturbation() -> None:
    torch.manual_seed(0)
    net = models.build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=4)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    other = TwoNetworks(copy.deepcopy(net), eps=0.1, step=0.03, steps=2, gamma=0.01)
    theirs = other.difference(x, y)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    perturbation = WeightPerturbation(net, resolve("at-awp", Choices()).recipe.perturbation)
    with perturbation.scope():
        perturbation.ascend(lambda: F.cross_entropy(net(x), y))
        for name, difference in theirs.items():
            v = dict(net.named_parameters())[name] - before[name]
            # The second network's difference of nearly equal weights is rounded to about 1e-5 of it.
            assert (v - 0.01 * difference).norm() / v.norm() < 1e-3


def test_the_table_compares_each_side_with_its_own_at() -> None:
    def figure(side: str, awp: bool, seconds: float, peak: float) -> dict[str, object]:
        base = {"side": side, "precision": "32", "awp": awp, "weights_mib": 40.0}
        return base | {"seconds": seconds, "cpu_seconds": seconds * 2, "peak_mib": peak}

    figures = [figure("ours", False, 2.0, 900.0), figure("ours", True, 2.5, 940.0)]
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table(parse(["--batch-size", "10"]), figures))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.get().splitlines()]
    assert ["32", "ours", "AT-AWP", "2.500", "5.000", "4.0", "+25.0%", "940", "40"] in rows


def test_it_runs(tmp_path: Path) -> None:
    words = [
        "--arch",
        "lenet",
        "--batch-size",
        "4",
        "--attack-steps",
        "1",
        "--repeats",
        "1",
        "--precision",
        "bf16",
    ]
    main([*words, "--out", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [(f["side"], f["awp"]) for f in figures] == [
        ("two-networks", False),
        ("two-networks", True),
        ("ours", False),
        ("ours", True),
    ]
    assert all(f["seconds"] > 0 and f["peak_mib"] > 100 for f in figures)
