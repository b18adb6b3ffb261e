"""On a pretend accelerator: the same verdicts as on the CPU, and few transfers between host and device.

The budgets are exact. A number that rises means that a loop waits for the device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    tuple(map(int, version("torch").split(".")[:2])) < (2, 10), reason="needs torch 2.10: backends in Python"
)
TESTS = Path(__file__).resolve().parents[1]
NAMES = (
    *("run", "check", "landscape curve", "landscape plane", "landscape perturbation"),
    *("landscape hessian", "landscape scattering"),
    *(f"train {recipe}{awp}" for recipe in ("at", "trades", "mart") for awp in ("", "-awp")),
    "train natural",
)


def measured(*names: str) -> Mapping[str, Mapping[str, Any]]:
    """The figures of ``support.on_pretend_device``, by name."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "support.on_pretend_device", *names],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return {found.pop("name"): found for found in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def quick() -> Mapping[str, Mapping[str, Any]]:
    """All quick measurements, in one process."""
    return measured("fgsm", "pgd-2", "pgd-7", "cw-2", "cw-7", "spsa-2", "spsa-7", "train at-awp")


@pytest.mark.parametrize("name", ["pgd", "cw", "spsa"])
def test_the_iterations_of_an_attack_transfer_nothing(
    quick: Mapping[str, Mapping[str, Any]], name: str
) -> None:
    few, many = quick[f"{name}-2"], quick[f"{name}-7"]
    assert (few["to host"], few["to device"]) == (many["to host"], many["to device"])


def test_an_attack_of_art_copies_its_arrays_once(quick: Mapping[str, Mapping[str, Any]]) -> None:
    """Images and labels to the host and back, and the numbers of its random start."""
    for name in ("fgsm", "pgd-7", "cw-7"):
        assert quick[name]["to host"] == 3, name
        assert quick[name]["to device"] <= 7, name
        assert quick[name]["difference"] < 1e-6, name


def test_spsa_draws_its_signs_on_the_device(quick: Mapping[str, Mapping[str, Any]]) -> None:
    assert (quick["spsa-7"]["to host"], quick["spsa-7"]["to device"]) == (0, 0)
    assert quick["spsa-7"]["difference"] < 1e-3


def test_an_update_of_training_reads_loss_and_accuracy_once(quick: Mapping[str, Mapping[str, Any]]) -> None:
    found = quick["train at-awp"]
    assert found["written"]
    assert (found["to host"], found["to device"]) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("train")])
def test_every_recipe_transfers_one_pair_of_numbers_per_update(name: str) -> None:
    found = measured(name)[name]
    assert found["written"]
    assert (found["to host"], found["to device"]) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("run", "check", "landscape"))])
def test_every_command_runs(name: str) -> None:
    assert measured(name)[name]["exit"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["evaluate quick", "evaluate full", "diagnose"])
def test_the_verdicts_are_those_on_the_cpu(name: str) -> None:
    found = measured(name)[name]
    assert found["same"]
    assert found["device"] == "pretend"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_the_images_of_autoattack_are_those_on_the_cpu(name: str) -> None:
    assert measured(name)[name]["difference"] < 0.01
