"""Files that are all called best.pt are told apart by their folders or recipes."""

from __future__ import annotations

import pytest

from robust_eval.core.checkpoint_names import distinct, is_usual, with_recipe


@pytest.mark.parametrize(
    "name",
    [
        *("best.pt", "last.pth", "model.pt", "model_best.pth", "checkpoint.pt", "ckpt-100.pt", "epoch-10.pt"),
        *("epoch10.pt", "model-epoch-3.pt", "10.pt", "snapshot-1.pt", "state_dict.pt", "pytorch_model.bin"),
    ],
)
def test_names_that_many_runs_write(name: str) -> None:
    assert is_usual(name)


@pytest.mark.parametrize(
    "name", ["at-awp.pt", "wrn-28-10.pt", "resnet18.pt", "bestiary.pt", "trades_best_cifar.pt"]
)
def test_names_that_tell_something(name: str) -> None:
    assert not is_usual(name)
    assert distinct(f"runs/at/{name}") == name
    assert with_recipe(name, "at") == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/at-awp/best.pt", "at-awp/best.pt"),
        ("/data/at-awp/checkpoints/best.pt", "at-awp/best.pt"),
        ("/best.pt", "best.pt"),
        ("timm:resnet18", "timm:resnet18"),
    ],
)
def test_the_folder_tells_usual_names_apart(path: str, name: str) -> None:
    assert distinct(path) == name


def test_the_recipe_is_added_to_usual_names() -> None:
    assert with_recipe("best.pt", "at-awp") == "best.pt (at-awp)"
    assert with_recipe("best.pt", "") == "best.pt"
