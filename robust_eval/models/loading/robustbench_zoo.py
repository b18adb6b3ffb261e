"""``robustbench:MODEL_ID[@threat]``: load a model of the RobustBench zoo with the robustbench package.

The models take [0, 1] images and include their normalisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_eval.core import regular_file
from robust_eval.core.download import user_cache
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Architecture, CheckpointRef
from robust_eval.data import ImageSet
from robust_eval.models import robustbench_package
from robust_eval.models.loading import file_head, file_reader, library_checkpoints
from robust_eval.models.normalisation import NONE

_DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet"}


def load(source: str, images: ImageSet | None, device: torch.device) -> tuple[nn.Module, CheckpointRef]:
    """The model in eval mode and its identification; downloaded on first use.

    ``images`` determine the dataset of the zoo: cifar10 (also without images), cifar100 or imagenet.

    Raises:
        UserError: for an unknown model or threat model, other images, or a failed download.
    """
    file_reader.refuse_old_torch(source)
    model_id, _, threat = source.removeprefix("robustbench:").partition("@")
    dataset = "cifar10" if images is None else _dataset(images)
    with robustbench_package.in_use():
        key, known = _known(dataset, threat or "Linf")
        if model_id not in known:
            raise unknown(f"robustbench {dataset} {key} model", model_id, known)
        folder = cache_folder()
        network = _fetch(model_id, folder, dataset, key)
    sha256, kind = _identity(folder, dataset, key, model_id, network), type(network).__name__
    ref = CheckpointRef(
        f"robustbench:{model_id}@{key}",
        sha256,
        Architecture(f"robustbench:{model_id}", {"class": kind, "threat": key}),
        100 if dataset == "cifar100" else 1000 if dataset == "imagenet" else 10,
        NONE,
        "robustbench",
        dataset,
        None,
        ("from RobustBench's model zoo; normalisation is inside the model",),
    )
    return network.float().to(device).eval(), ref


def cache_folder() -> Path:
    """The download folder, in ``ROBUST_EVAL_CACHE`` or ``~/.cache/robust-eval``."""
    return user_cache("ROBUST_EVAL_CACHE") / "robustbench"


def _dataset(images: ImageSet) -> str:
    by_classes = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
    found = _DATASETS.get(images.name) or by_classes.get(images.classes)
    if found is None or images.channels != 3:
        raise UserError(
            f"RobustBench's models are for cifar10, cifar100 and imagenet, not for {images.name}. "
            "Choose other --data."
        )
    return found


def _known(dataset: str, threat: str) -> tuple[str, Mapping[str, Any]]:
    """The threat model as the zoo spells it, and its models."""
    table = robustbench_package.models()[dataset]
    spelled = {key.lower(): key for key in table}
    if threat.lower() not in spelled:
        raise unknown(f"robustbench {dataset} threat model", threat, table)
    key = spelled[threat.lower()]
    return key, table[key]


def _fetch(model_id: str, folder: Path, dataset: str, threat: str) -> nn.Module:
    try:
        return robustbench_package.load_model(model_id, folder, dataset, threat)
    except UserError:
        raise
    except Exception as error:
        reason = _reason(error)
        file = folder / dataset / threat / f"{model_id}.pt"
        if file.is_file():
            # Raises a specific error if the file is, for example, a web page.
            file_reader.read(file)
            raise UserError(
                f"robustbench:{model_id} cannot be loaded ({reason}). Delete {file} and try again."
            ) from error
        raise UserError(
            f"robustbench:{model_id} cannot be downloaded ({reason}). "
            f"Check the network, or put the file at {file}."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return "no connection to the file host"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def _identity(folder: Path, dataset: str, threat: str, model_id: str, network: nn.Module) -> str:
    """SHA-256 of the file, of the hashes of several files, or of the tensors if there is no file."""
    files = sorted((folder / dataset / threat).glob(f"{model_id}.pt*"))
    if len(files) == 1:
        return regular_file.sha256(files[0], "checkpoints", file_head.LARGEST)
    digest = hashlib.sha256()
    for path in files:
        digest.update(bytes.fromhex(regular_file.sha256(path, "checkpoints", file_head.LARGEST)))
    return digest.hexdigest() if files else library_checkpoints.digest(network)
