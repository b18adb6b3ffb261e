"""Random directions: drawn once, scaled to each model, shared as files."""

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


def test_a_direction_depends_on_seed_number_and_name_alone() -> None:
    drawn = directions.draw(SHAPES, 2, 0)
    again = directions.draw({"fc.weight": (5, 7)}, 5, 0)
    assert torch.equal(drawn.raw(1)["fc.weight"], again.raw(1)["fc.weight"])
    assert not torch.equal(drawn.raw(0)["fc.weight"], drawn.raw(1)["fc.weight"])
    assert not torch.equal(drawn.raw(0)["fc.weight"], directions.draw(SHAPES, 1, 1).raw(0)["fc.weight"])


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    directions.draw(SHAPES, 1, 0).raw(0)
    assert torch.equal(torch.rand(2), expected)


def test_only_weights_of_more_than_one_dimension_move() -> None:
    weights = directions.movable(network())
    assert weights
    assert all(name.endswith("weight") and weight.dim() > 1 for name, weight in weights.items())
    assert not any("bn" in name for name in weights)


def test_every_filter_gets_the_length_of_the_models_own() -> None:
    weights = directions.movable(network())
    first = next(iter(weights))
    weights[first][2] = 0
    raw = directions.draw(shapes_of(weights), 1, 0).raw(0)
    scaled = directions.filter_normalised(raw, weights)
    for name, weight in weights.items():
        torch.testing.assert_close(scaled[name].flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert not scaled[first][2].any(), "a filter of zeros stays where it is"
    cosines = nn.functional.cosine_similarity(scaled[first].flatten(1), raw[first].flatten(1))
    torch.testing.assert_close(cosines[:2], torch.ones(2))


def test_every_tensor_gets_the_length_of_the_models_own() -> None:
    weights = directions.movable(network())
    scaled = directions.tensor_normalised(directions.draw(shapes_of(weights), 1, 0).raw(0), weights)
    for name, weight in weights.items():
        torch.testing.assert_close(scaled[name].norm(), weight.norm())


def test_random_directions_are_nearly_perpendicular() -> None:
    weights = directions.movable(network())
    drawn = directions.draw(shapes_of(weights), 2, 0)
    one, other = (directions.filter_normalised(drawn.raw(k), weights) for k in (0, 1))
    assert abs(directions.cosine(one, other)) < 0.05
    assert directions.cosine(one, one) == pytest.approx(1)


def test_a_file_brings_the_same_directions_back(tmp_path: Path) -> None:
    drawn = directions.draw(SHAPES, 3, 7)
    directions.save(tmp_path / "new" / "d.safetensors", drawn)
    read = directions.load(tmp_path / "new" / "d.safetensors", SHAPES, 2, "at")
    assert read.count == 2
    for number in range(2):
        for name in SHAPES:
            assert torch.equal(read.raw(number)[name], drawn.raw(number)[name])
    assert read.origin.startswith("file with sha256 ")


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    directions.save(path, directions.draw(SHAPES, 1, 0))
    with pytest.raises(UserError, match=r"holds directions for another model than at: .*fc\.weight is 5x7"):
        directions.load(path, {**SHAPES, "fc.weight": (10, 7)}, 1, "at")
    with pytest.raises(UserError, match="for another model than at: .*missing"):
        directions.load(path, {**SHAPES, "more.weight": (1, 1)}, 1, "at")


def test_a_file_with_too_few_directions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    directions.save(path, directions.draw(SHAPES, 2, 0))
    with pytest.raises(UserError, match="holds 2 directions, but 3 are needed: ask for --directions 2"):
        directions.load(path, SHAPES, 3, "at")


def test_other_files_are_refused(tmp_path: Path) -> None:
    text, weights, bad = (tmp_path / name for name in ("text", "weights", "bad"))
    text.write_text("hello")
    save_file({"fc.weight": torch.zeros(5, 7)}, weights)
    directions.save(bad, directions.draw(SHAPES, 1, 0))
    tensors = load_file(bad)
    tensors["0/fc.weight"][0, 0] = float("inf")
    save_file(tensors, bad, {"format": "robust-eval directions", "version": "1"})
    for path, sentence in (
        (text, "is not readable as a direction file"),
        (weights, "is no direction file of robust-eval"),
        (bad, "holds directions that are not finite"),
        (tmp_path, "is not readable as a direction file"),
    ):
        with pytest.raises(UserError, match=sentence):
            directions.load(path, SHAPES, 1, "at")


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write to"):
        directions.save(tmp_path / "file" / "d.safetensors", directions.draw(SHAPES, 1, 0))
