"""The scripts that make the boards refuse what cannot work before they spend hours on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of the right name, with nothing to train on."""
    for split in ("train", "test"):
        (tmp_path / "cifar10-jpeg" / split).mkdir(parents=True)
    return tmp_path / "cifar10-jpeg"


def refused(script: str, *words: object, at: Path = ROOT, **environment: str) -> str:
    """What it says, with exit code 2 and within seconds."""
    done = subprocess.run(
        ["sh", str(ROOT / "docs" / "boards" / script), *map(str, words)],
        cwd=at,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {}, "usage: sh docs/boards/mnist.sh DATA_ROOT"),
        (["absent"], {}, "absent is not a folder. Name the one that holds mnist's four files"),
        ([".", "abc"], {}, "EXAMPLES must be a whole number, got 'abc'"),
        ([".", "100"], {}, "EXAMPLES must be at least 1000 on this board, got 100"),
        ([".", "1000", "zero"], {}, "SEEDS must be whole numbers with commas between"),
        (["."], {"RECIPES": "at trads"}, "RECIPES: 'trads' is none of this board's: at at-awp trades"),
        (["."], {"EPOCHS": "0"}, "EPOCHS must be at least 1"),
    ],
)
def test_mnist(words: list[str], environment: dict[str, str], message: str) -> None:
    assert message in refused("mnist.sh", *words, **environment)


def test_cifar10_jpeg(images: Path, tmp_path: Path) -> None:
    assert "usage: " in refused("cifar10_jpeg.sh")
    assert "train is not a folder: unpack the images" in refused("cifar10_jpeg.sh", tmp_path)
    assert "at least 500 on this board, got 100" in refused("cifar10_jpeg.sh", images, 100)
    other = images.rename(images.with_name("pictures"))
    assert "must be named cifar10-jpeg" in refused("cifar10_jpeg.sh", other)


@pytest.mark.parametrize("script", ["mnist.sh", "cifar10_jpeg.sh", "digits.sh"])
def test_elsewhere_than_at_the_top(script: str, tmp_path: Path) -> None:
    assert refused(script, tmp_path, at=tmp_path) == "Run this from the top of the checkout.\n"
    assert not list(tmp_path.iterdir())


def test_digits() -> None:
    assert "RECIPES: 'natual' is none" in refused("digits.sh", ".", RECIPES="natual")
