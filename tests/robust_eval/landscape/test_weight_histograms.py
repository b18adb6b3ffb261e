"""Histograms of weights and their statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from support import small_scans

from robust_eval.core.errors import UserError
from robust_eval.landscape import weight_histograms


def test_statistics_equal_those_of_scipy_and_numpy() -> None:
    values = np.random.RandomState(0).gamma(2.0, size=(5, 7, 3))
    found = weight_histograms.weight_statistics(values)
    assert found.n == 105
    assert found.std == pytest.approx(values.std())
    assert found.skewness == pytest.approx(stats.skew(values.ravel()))
    assert found.norm == pytest.approx(np.sqrt((values**2).sum()))
    assert (found.mean_abs, found.largest) == (pytest.approx(values.mean()), values.max())
    assert weight_histograms.weight_statistics(np.zeros((2, 2))).skewness == 0.0


def test_layers_are_compared_on_common_bins(tmp_path: Path) -> None:
    paths = [small_scans.write(tmp_path / f"{k}.pt", seed=k, width=8, hidden=8) for k in range(2)]
    labels, loaded = weight_histograms.load_models([str(path) for path in paths], None, None)
    found = weight_histograms.layer_histograms(labels, loaded)
    assert [layer.name for layer in found] == [
        *(f"convolutions.{index}.weight" for index in (0, 2, 4)),
        *("fc1.weight", "fc2.weight"),
    ]
    for layer in found:
        assert len(layer.edges) % 2 == 0, "0 is the middle of a bin"
        for density in layer.density.values():
            assert 0.95 < float((density * np.diff(layer.edges)).sum()) <= 1 + 1e-9
    assert [layer.name for layer in weight_histograms.select_layers(found, None)] == [
        f"convolutions.{index}.weight" for index in (0, 2, 4)
    ]
    assert [layer.name for layer in weight_histograms.select_layers(found, "fc1.weight")] == ["fc1.weight"]
    with pytest.raises(UserError, match="Unknown layer 'fc1.wait'. Did you mean fc1.weight?"):
        weight_histograms.select_layers(found, "fc1.wait")


def test_different_architectures_and_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    one, other = small_scans.write(tmp_path / "a.pt"), small_scans.write(tmp_path / "b.pt", arch="wrn-10-1")
    with pytest.raises(UserError, match="a is a digits-cnn .* and b a wrn-10-1.* cannot be compared"):
        weight_histograms.load_models([str(one), str(other)], None, None)
    labels, loaded = weight_histograms.load_models([str(one)], None, None)
    with torch.no_grad():
        loaded[0].network.get_parameter("fc1.weight")[0, 0] = float("nan")
    with pytest.raises(UserError, match="a has weights that are not finite, in fc1.weight"):
        weight_histograms.layer_histograms(labels, loaded)
