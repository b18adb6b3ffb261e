"""The commands of the README for models of libraries, with random weights in place of the downloaded ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robust_eval.results import read_result

timm = pytest.importorskip("timm")
README = Path(__file__).resolve().parents[2] / "README.md"
COMMANDS = re.findall(r"^robust-eval run .*folder:val\?.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
WNIDS = 1000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``val``, of as many classes as ImageNet has, and the caches of the libraries."""
    top = tmp_path_factory.mktemp("home")
    generator = np.random.default_rng(0)
    for label in range(WNIDS):
        folder = top / "val" / f"n{label:08d}"
        folder.mkdir(parents=True)
        if label % 250 == 0:
            pixels = generator.integers(0, 256, (260 + label // 10, 250, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "1.jpg")
    for command in COMMANDS:
        _fill_cache(top, shlex.split(command)[2])
    return top


def _fill_cache(top: Path, source: str) -> None:
    """Put random weights where a library looks for those it has downloaded."""
    library, _, name = source.partition(":")
    torch.manual_seed(0)
    if library == "torchvision":
        from torchvision import models

        architecture, _, weights = name.partition("?weights=")
        url = models.get_model_weights(architecture)[weights].url
        path = top / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
        path.parent.mkdir(parents=True)
        torch.save(models.get_model(architecture, weights=None).state_dict(), path)
        return
    from safetensors.torch import save_file

    repository = name if library == "hf-hub" else f"timm/{name}"
    folder = top / "huggingface" / "hub" / f"models--{repository.replace('/', '--')}"
    files = folder / "snapshots" / "0"
    files.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    network = timm.create_model(repository.partition("/")[2], pretrained=False)
    save_file(network.state_dict(), files / "model.safetensors")
    stated = {
        k: v for k, v in network.pretrained_cfg.items() if k in ("input_size", "mean", "std", "crop_pct")
    }
    stated |= {"fixed_input_size": network.pretrained_cfg["fixed_input_size"], "interpolation": "bicubic"}
    described = {"architecture": network.pretrained_cfg["architecture"], "num_classes": 1000}
    (files / "config.json").write_text(json.dumps(described | {"pretrained_cfg": stated}))


def _environment(home: Path) -> Mapping[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "huggingface"), "TORCH_HOME": str(home / "torch")}
    return {**os.environ, **offline}


def test_the_readme_has_a_command_for_each_library() -> None:
    assert [shlex.split(command)[2].partition(":")[0] for command in COMMANDS] == [
        "timm",
        "torchvision",
        "hf-hub",
    ]


def _run(words: Sequence[str], home: Path) -> str:
    """The output of ``robust-eval`` with these words."""
    done = subprocess.run(
        [sys.executable, "-m", "robust_eval.cli", *words],
        cwd=home,
        env=_environment(home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(command: str, home: Path, tmp_path: Path) -> None:
    words = [*shlex.split(command)[1:], "--suite", "quick", "--workers", "1", "--out", str(tmp_path / "run")]
    planned = _run([*words, "--dry-run"], home)
    assert words[1] in planned
    if "vit_tiny" not in command:  # the checks of a larger network take minutes
        return
    _run(words, home)
    result = read_result(tmp_path / "run" / "result.json")
    assert result.checkpoint.name == words[1]
    assert result.data.n == 4
    assert result.data.name.startswith("folder:val?resize=")
    assert result.checkpoint.normalisation.name in ("imagenet", "2x-1")
