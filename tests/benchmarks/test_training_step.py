"""The training benchmark: both sides find the same perturbation, and the arithmetic of the table."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from benchmarks.evaluation import matrix_rate
from benchmarks.training import side, step
from benchmarks.training.side import operations
from benchmarks.training.step import main, parse, table
from benchmarks.training.two_network_awp import TwoNetworks
from defenses.recipes.choices import Choices
from defenses.recipes.resolve import resolve
from defenses.training.weight_perturbation import WeightPerturbation
from robust_eval.models import architectures


def test_both_sides_find_the_same_perturbation() -> None:
    torch.manual_seed(0)
    net = architectures.build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=4)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    other = TwoNetworks(copy.deepcopy(net), eps=0.1, step=0.03, steps=2, gamma=0.01)
    theirs = other.difference(x, y)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    perturbation = WeightPerturbation(net, resolve("at-awp", Choices()).recipe.perturbation)
    with perturbation.scope():
        perturbation.ascend(lambda: F.cross_entropy(net(x), y))
        for name, difference in theirs.items():
            v = dict(net.named_parameters())[name] - before[name]
            # The second network computes a difference of nearly equal weights, with a relative error of 1e-5.
            assert (v - 0.01 * difference).norm() / v.norm() < 1e-3


def test_the_table_compares_with_at_and_with_two_networks_in_float32() -> None:
    def figure(side: str, awp: bool, seconds: float, peak: float, precision: str = "32") -> dict[str, object]:
        base = {"side": side, "precision": precision, "awp": awp, "weights_mib": 40.0, "first_seconds": 9.0}
        return base | {"seconds": seconds, "cpu_seconds": seconds * 2, "peak_mib": peak, "share": 0.515}

    figures = [
        figure("two-networks", True, 5.0, 990.0),
        figure("two-networks", True, 4.0, 980.0, "bf16"),
        figure("ours", False, 2.0, 900.0, "bf16"),
        figure("ours", True, 2.5, 940.0, "bf16"),
    ]
    console = Console(width=160)
    with console.capture() as shown:
        console.print(table(parse(["--batch-size", "10"]), figures))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.get().splitlines()]
    ours = ["bf16", "ours", "AT-AWP", "2.500", "5.000", "4.0", "2.00x", "2.00x", "52%", "+25.0%", "940", "40"]
    assert [*ours, "9.0"] in rows


def test_operations_of_a_step_and_their_growth_with_the_batch() -> None:
    """For a linear layer, forward, weight gradient and input gradient take 2 n a b operations each."""
    layer = torch.nn.Linear(5, 7)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        x = x.requires_grad_() * 1
        found = torch.autograd.grad(F.cross_entropy(layer(x), y), [layer.weight, x])
        assert [g.shape for g in found] == [(7, 5), (len(x), 5)]

    x, y = torch.rand(8, 5), torch.arange(8) % 7
    assert operations(step, x, y, 8) == 3 * 2 * 8 * 5 * 7


run_process = subprocess.run


def in_this_process(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python -m benchmarks.training.side ...`` without a process that imports torch."""
    if command[0] != sys.executable:  # the standard library asks uname for the processor
        return run_process(command, **options)
    assert command[:3] == [sys.executable, "-m", side.__name__]
    _, _, module, *words = command
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("sys.argv", [module, *words])
        patch.setattr(matrix_rate, "rate", functools.partial(matrix_rate.rate, seconds=0.1))
        side.main()
    return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")


def figures(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The figures that the command writes for one attack step on four images in bfloat16."""
    small = ["--arch", "lenet", "--batch-size", "4", "--attack-steps", "1", "--repeats", "1"]
    main([*small, "--precision", "bf16", *words, "--out", str(folder / "figures.json")])
    found: list[dict[str, Any]] = json.loads((folder / "figures.json").read_text())["figures"]
    assert all(f["seconds"] > 0 and f["peak_mib"] > 100 and f["share"] > 0 for f in found)
    return found


def test_the_command_measures_each_side_and_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.subprocess, "run", in_this_process)
    found = figures(tmp_path, "--side", "two-networks", "--side", "ours")
    assert [(f["side"], f["awp"]) for f in found] == [
        ("two-networks", False),
        ("two-networks", True),
        ("ours", False),
        ("ours", True),
    ]


@pytest.mark.slow
def test_each_measurement_has_its_own_process(tmp_path: Path) -> None:
    (found,) = figures(tmp_path, "--side", "two-networks", "--method", "at-awp")
    assert (found["side"], found["awp"]) == ("two-networks", True)
