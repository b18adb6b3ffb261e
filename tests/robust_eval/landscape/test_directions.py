"""Random directions: how they are drawn, normalised, and stored in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.landscape import directions
from robust_eval.models import architectures
from robust_eval.models.loading.state_dict_diff import shapes_of

SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 7)}


def network() -> nn.Module:
    torch.manual_seed(0)
    return architectures.build("wrn-10-1", classes=4, channels=3, image_size=(16, 16))


def test_a_direction_depends_only_on_seed_number_and_name() -> None:
    drawn = directions.random_directions(SHAPES, 2, 0)
    again = directions.random_directions({"fc.weight": (5, 7)}, 5, 0)
    assert torch.equal(drawn.raw(1)["fc.weight"], again.raw(1)["fc.weight"])
    assert not torch.equal(drawn.raw(0)["fc.weight"], drawn.raw(1)["fc.weight"])
    assert not torch.equal(
        drawn.raw(0)["fc.weight"], directions.random_directions(SHAPES, 1, 1).raw(0)["fc.weight"]
    )


def test_drawing_does_not_change_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    directions.random_directions(SHAPES, 1, 0).raw(0)
    assert torch.equal(torch.rand(2), expected)


def test_only_weights_of_more_than_one_dimension_are_perturbed() -> None:
    weights = directions.perturbable_weights(network())
    assert weights
    assert all(name.endswith("weight") and weight.dim() > 1 for name, weight in weights.items())
    assert not any("bn" in name for name in weights)


def test_filter_normalisation_gives_each_filter_the_norm_of_the_weights() -> None:
    weights = directions.perturbable_weights(network())
    first = next(iter(weights))
    weights[first][2] = 0
    raw = directions.random_directions(shapes_of(weights), 1, 0).raw(0)
    scaled = directions.filter_normalised(raw, weights)
    for name, weight in weights.items():
        torch.testing.assert_close(scaled[name].flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert not scaled[first][2].any(), "a filter of zeros is not displaced"
    cosines = nn.functional.cosine_similarity(scaled[first].flatten(1), raw[first].flatten(1))
    torch.testing.assert_close(cosines[:2], torch.ones(2))


def test_tensor_normalisation_gives_each_tensor_the_norm_of_the_weights() -> None:
    weights = directions.perturbable_weights(network())
    scaled = directions.tensor_normalised(
        directions.random_directions(shapes_of(weights), 1, 0).raw(0), weights
    )
    for name, weight in weights.items():
        torch.testing.assert_close(scaled[name].norm(), weight.norm())


def test_random_directions_are_nearly_orthogonal() -> None:
    weights = directions.perturbable_weights(network())
    drawn = directions.random_directions(shapes_of(weights), 2, 0)
    one, other = (directions.filter_normalised(drawn.raw(k), weights) for k in (0, 1))
    assert abs(directions.cosine(one, other)) < 0.05
    assert directions.cosine(one, one) == pytest.approx(1)


def test_directions_read_from_a_file_equal_those_written(tmp_path: Path) -> None:
    drawn = directions.random_directions(SHAPES, 3, 7)
    directions.save_directions(tmp_path / "new" / "d.safetensors", drawn)
    read = directions.load_directions(tmp_path / "new" / "d.safetensors", SHAPES, 2, "at")
    assert read.count == 2
    for number in range(2):
        for name in SHAPES:
            assert torch.equal(read.raw(number)[name], drawn.raw(number)[name])
    assert read.origin.startswith("file with sha256 ")


def test_a_file_for_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    directions.save_directions(path, directions.random_directions(SHAPES, 1, 0))
    with pytest.raises(UserError, match=r"has directions for another model than at: .*fc\.weight is 5x7"):
        directions.load_directions(path, {**SHAPES, "fc.weight": (10, 7)}, 1, "at")
    with pytest.raises(UserError, match="for another model than at: .*missing"):
        directions.load_directions(path, {**SHAPES, "more.weight": (1, 1)}, 1, "at")


def test_a_file_with_too_few_directions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    directions.save_directions(path, directions.random_directions(SHAPES, 2, 0))
    with pytest.raises(UserError, match="has 2 directions, but 3 are needed: use --directions 2"):
        directions.load_directions(path, SHAPES, 3, "at")


def test_files_that_are_not_valid_direction_files_are_refused(tmp_path: Path) -> None:
    text, weights, bad = (tmp_path / name for name in ("text", "weights", "bad"))
    text.write_text("hello")
    save_file({"fc.weight": torch.zeros(5, 7)}, weights)
    directions.save_directions(bad, directions.random_directions(SHAPES, 1, 0))
    tensors = load_file(bad)
    tensors["0/fc.weight"][0, 0] = float("inf")
    save_file(tensors, bad, {"format": "robust-eval directions", "version": "1"})
    for path, message in (
        (text, "is not a safetensors file, or a damaged one"),
        (weights, "is not a direction file of robust-eval"),
        (bad, "has directions that are not finite"),
        (tmp_path, "is a folder. Name a file in it"),
    ):
        with pytest.raises(UserError, match=message):
            directions.load_directions(path, SHAPES, 1, "at")


def test_an_unwritable_path_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(UserError, match="Cannot write to"):
        directions.save_directions(
            tmp_path / "file" / "d.safetensors", directions.random_directions(SHAPES, 1, 0)
        )
