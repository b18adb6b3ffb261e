"""The scripts that make the boards refuse invalid arguments before training and run the expected commands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from scripts.boards import commands_page
from scripts.boards.commands_page import recorded_commands

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An empty folder of images with the required name."""
    for split in ("train", "test"):
        (tmp_path / "cifar10-jpeg" / split).mkdir(parents=True)
    return tmp_path / "cifar10-jpeg"


def refused(script: str, *words: object, cwd: Path = ROOT, **environment: str) -> str:
    """Run a script that must exit with 2; returns its message."""
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "boards" / script), *map(str, words)],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {}, "usage: sh scripts/boards/mnist.sh DATA_ROOT"),
        (["absent"], {}, "absent is not a folder. Give the folder of mnist's four files"),
        ([".", "abc"], {}, "EXAMPLES must be a whole number, got 'abc'"),
        ([".", "100"], {}, "EXAMPLES must be at least 1000 on this board, got 100"),
        ([".", "1000", "zero"], {}, "SEEDS must be whole numbers separated by commas"),
        ([".", "1000", ","], {}, "SEEDS must be whole numbers separated by commas"),
        (["."], {"RECIPES": " "}, "RECIPES is empty"),
        (["."], {"SEARCH": "fp16"}, "SEARCH must be auto, float32 or bfloat16, got 'fp16'"),
        (["."], {"EXECUTOR": "foo"}, "EXECUTOR must be local or ray, got 'foo'"),
        (
            ["."],
            {"RECIPES": "at trads"},
            "RECIPES: 'trads' is not a recipe of this board. It has: at at-awp trades",
        ),
        (["."], {"EPOCHS": "0"}, "EPOCHS must be at least 1"),
    ],
)
def test_mnist_script_refuses_invalid_arguments(
    words: list[str], environment: dict[str, str], message: str
) -> None:
    assert message in refused("mnist.sh", *words, **environment)


def test_cifar10_jpeg_script_refuses_invalid_arguments(images: Path, tmp_path: Path) -> None:
    assert "usage: " in refused("cifar10_jpeg.sh")
    assert "train is not a folder. Unpack the images" in refused("cifar10_jpeg.sh", tmp_path)
    assert "at least 500 on this board, got 100" in refused("cifar10_jpeg.sh", images, 100)
    assert "MNIST: absent is not a folder" in refused("cifar10_jpeg.sh", images, MNIST="absent")
    assert "'pretraining' is not a recipe" in refused("cifar10_jpeg.sh", images, RECIPES="pretraining")
    other = images.rename(images.with_name("pictures"))
    assert "must be named cifar10-jpeg" in refused("cifar10_jpeg.sh", other)


@pytest.mark.parametrize("script", ["mnist.sh", "cifar10_jpeg.sh", "digits.sh"])
def test_scripts_must_run_from_the_top_of_the_checkout(script: str, tmp_path: Path) -> None:
    assert refused(script, tmp_path, cwd=tmp_path) == "Run this from the top of the checkout.\n"
    assert not list(tmp_path.iterdir())


def test_missing_images_are_reported_before_training(images: Path, tmp_path: Path) -> None:
    for name in ("images-idx3", "labels-idx1"):
        for split in ("train", "t10k"):
            (tmp_path / f"{split}-{name}-ubyte").write_bytes(b"no images")
    message = refused("mnist.sh", tmp_path, 20_000, tmp_path / "at", "x", cwd=ROOT)
    assert "SEEDS" in message, "a folder was given instead of the seeds"
    assert "is not an IDX file" in refused("mnist.sh", tmp_path, 1000, "0", tmp_path / "at")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (images / split / name).mkdir()
            for number in range(3):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(images / split / name / f"{number}.png")
    message = refused("cifar10_jpeg.sh", images, 600, "0", tmp_path / "at")
    assert "Asked for 600 examples, but folder:cifar10-jpeg (test) has 6" in message
    assert not (tmp_path / "at").exists()


def test_digits_script_refuses_unknown_recipes() -> None:
    assert "RECIPES: 'natual' is not a recipe" in refused("digits.sh", ".", RECIPES="natual")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return commands_page.make_checkout(tmp_path / "checkout")


def trained(commands: list[str]) -> list[tuple[str, str]]:
    """(recipe, folder) of every training command."""
    words = [line.split() for line in commands if line.startswith("defenses train")]
    return [(line[2], Path(line[line.index("--out") + 1]).name) for line in words]


def test_each_recipe_is_trained_and_evaluated_in_its_folder(checkout: Path, images: Path) -> None:
    """Regression test: variables of a shell function are global and once overwrote the loop's recipe."""
    commands = recorded_commands(checkout, "cifar10_jpeg.sh", images, NET="small", MNIST=str(checkout))
    pairs = [r for name in ("at", "trades", "mart", "rst", "pretraining") for r in (name, f"{name}-awp")]
    others = {"labeller-s0": "natural", "mnist32-s0": "at"}
    found = trained(commands)
    rows = [(recipe, folder) for recipe, folder in found if folder not in others]
    assert rows == [(recipe, f"{recipe}-s0") for recipe in pairs]
    assert {(recipe, folder) for recipe, folder in found} - set(rows) == {(r, f) for f, r in others.items()}
    for verb in ("robust-eval run", "robust-eval verify", "robust-eval leaderboard add"):
        lines = [line for line in commands if line.startswith(verb)]
        assert [f"/{recipe}-s0/" in line for recipe, line in zip(pairs, lines, strict=True)] == [True] * 10
    for line in commands:
        assert ("--unlabelled" in line) == line.startswith("defenses train rst")
        assert ("--init" in line) == line.startswith("defenses train pretraining")
        if line.startswith("defenses train"):
            assert ("perturbation.warmup" in line) == ("-awp --eps" in line), line


def test_both_rows_of_a_pair_are_trained_with_the_same_settings(checkout: Path, images: Path) -> None:
    """Only the recipe, its folder and the start of the weight perturbation may differ."""
    commands = recorded_commands(checkout, "mnist.sh", checkout) + recorded_commands(
        checkout, "cifar10_jpeg.sh", images, NET="small"
    )
    lines = [line for line in commands if line.startswith("defenses train") and "labeller" not in line]
    plain, perturbed = lines[0::2], lines[1::2]
    for before, after in zip(plain, perturbed, strict=True):
        same = re.sub(r" --set perturbation\.warmup=\S+", "", after).replace("-awp", "")
        assert same == before


def test_regularisers_are_trained_only_if_named(checkout: Path) -> None:
    """With the settings of the pairs; random perturbation starts in the same epoch as AWP."""
    names = ["at", "at-awp", "at-rwp", "at-l1", "at-l2", "at-cutout", "at-mixup"]
    default = trained(recorded_commands(checkout, "mnist.sh", checkout))
    assert set(names[2:]).isdisjoint(recipe for recipe, _ in default)
    commands = recorded_commands(checkout, "mnist.sh", checkout, RECIPES=" ".join(names))
    assert trained(commands) == [(name, f"{name}-s0") for name in names]
    plain, perturbed, *others = (line for line in commands if line.startswith("defenses train"))
    for name, line in zip(names[2:], others, strict=True):
        assert line.replace(name, "at") == (perturbed.replace("at-awp", "at") if name == "at-rwp" else plain)


def test_each_seed_has_its_own_folder(checkout: Path) -> None:
    commands = recorded_commands(checkout, "mnist.sh", checkout, 1000, "0,1", RECIPES="at")
    assert trained(commands) == [("at", "at-s0"), ("at", "at-s1")]


def test_the_page_of_commands_is_up_to_date() -> None:
    assert commands_page.PAGE.read_text(encoding="utf-8") == commands_page.page(), (
        "run python -m scripts.boards.commands_page"
    )
