"""The comparison of float32 and bfloat16 training: runs, and the arithmetic of the comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.training.precision import main, verdict


def rows(*robust: float) -> list[dict[str, float]]:
    return [{"pgd": value} for value in robust]


def test_the_difference_is_compared_with_the_range_over_seeds() -> None:
    near = verdict({"32": rows(0.50, 0.52, 0.51), "bf16": rows(0.50, 0.53, 0.53)})
    assert near == (pytest.approx(0.01), pytest.approx(0.03), True)
    far = verdict({"32": rows(0.50, 0.52, 0.51), "bf16": rows(0.40, 0.41, 0.42)})
    assert far == (pytest.approx(-0.10), pytest.approx(0.02), False)


def test_it_trains_in_both_precisions_and_can_be_repeated(tmp_path: Path) -> None:
    small = ["architecture_arguments.width=4", "architecture_arguments.hidden=8", "inner.steps=1"]
    words = ["--epochs", "1", "--seeds", "0,1", "--examples", "20", "--out", str(tmp_path)]
    words += [word for text in (*small, "selection.steps=1") for word in ("--set", text)]
    main(words)
    first = json.loads((tmp_path / "precision.json").read_text())
    assert [row["seed"] for row in first["figures"]["bf16"]] == [0, 1]
    assert first["figures"]["32"][0]["epochs"] == 1
    main(words)
    assert json.loads((tmp_path / "precision.json").read_text())["figures"] == first["figures"]
