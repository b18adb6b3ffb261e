"""``timm:NAME``, ``torchvision:NAME`` and ``hf-hub:ORG/NAME``: pretrained models, downloaded on first use.

A library states the preprocessing of each model: its input normalisation becomes part of the model. Resizing
and cropping belong to the data; the images must have the size that the model was trained on wherever it takes
no other.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robust_eval.core import extras
from robust_eval.core.download import download_timeout
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Architecture, CheckpointRef, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.architectures import split_arguments
from robust_eval.models.loading import file_reader
from robust_eval.models.loading.library_networks import timm_package
from robust_eval.models.normalisation import NORMALISATIONS, equivalent


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network, from normalised input to logits, and its preprocessing."""

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    image_size: tuple[int, int]
    """(height, width) of its training images."""
    only_size: bool
    """Whether it takes no other size."""
    resizing: str
    """How images are resized and cropped, for the user."""
    weights: str
    """The name of the weights."""


def load(source: str, images: ImageSet | None, device: torch.device) -> tuple[nn.Module, CheckpointRef]:
    """The network in eval mode, without its normalisation, and its identification.

    Raises:
        UserError: for an unknown name, a failed download, or images that do not fit.
    """
    file_reader.refuse_old_torch(source)
    library, _, name = source.partition(":")
    try:
        with download_timeout(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = SOURCES[library](name)
    except UserError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = (
            "no connection" if isinstance(error, OSError) else f"{type(error).__name__}: {lines[0][:120]}"
        )
        raise UserError(
            f"{source} cannot be downloaded ({reason}). Check the network, or load a file with "
            f"--arch {source.replace('hf-hub:', 'timm:').partition('?')[0]}."
        ) from error
    network = found.network.float().to(device).eval()
    channels = len(found.mean)
    if images is not None:
        _check_images(source, found, channels, images)
    classes = _classes(network, channels, found.image_size, device)
    if images is not None:
        images.refuse_misfit(classes, source)
    ref = CheckpointRef(
        source,
        digest(network),
        Architecture(source.partition("?")[0], {}),
        classes,
        _normalisation(found.mean, found.std),
        "library",
        None,
        None,
        (
            f"weights {found.weights}; trained on images of {found.image_size[0]}x{found.image_size[1]}, "
            f"{found.resizing}",
        ),
    )
    return network, ref


def digest(network: nn.Module) -> str:
    """SHA-256 of the names and bytes of all tensors."""
    found = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        found.update(key.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _timm(name: str) -> Pretrained:
    package = timm_package(f"timm:{name}")
    if not package.is_model(name):
        raise unknown("timm model", name, package.list_models(pretrained=True))
    return _from_timm(package.create_model(name, pretrained=True))


def _hub(name: str) -> Pretrained:
    package = timm_package(f"hf-hub:{name}")
    extras.check("hub", "huggingface_hub", f"hf-hub:{name}")
    return _from_timm(package.create_model(f"hf-hub:{name}", pretrained=True))


def _from_timm(network: Any) -> Pretrained:
    stated: Mapping[str, Any] = network.pretrained_cfg
    height, width = stated["input_size"][1:]
    resized = round(min(height, width) / (stated.get("crop_pct") or 1))
    return Pretrained(
        network,
        stated["mean"],
        stated["std"],
        (height, width),
        bool(stated.get("fixed_input_size")),
        f"resized to {resized} ({stated.get('interpolation')}) and cropped",
        f"{stated.get('architecture')}.{stated.get('tag') or 'default'}",
    )


def _torchvision(name: str) -> Pretrained:
    from torchvision import models

    name, arguments = split_arguments(name)
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    choices = models.get_model_weights(name)
    wanted = arguments.pop("weights", "DEFAULT")
    if arguments or wanted not in {"DEFAULT", *choices.__members__}:
        raise unknown(f"argument of torchvision:{name}", "&".join([wanted, *arguments]), choices.__members__)
    weights = choices[wanted]
    stated = weights.transforms()
    size, resized = stated.crop_size[0], stated.resize_size[0]
    return Pretrained(
        models.get_model(name, weights=weights, progress=False),
        stated.mean,
        stated.std,
        (size, size),
        name.startswith("vit_"),
        f"resized to {resized} ({stated.interpolation.value}) and cropped",
        weights.name,
    )


SOURCES: Mapping[str, Callable[[str], Pretrained]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf-hub": _hub,
}


def _check_images(source: str, found: Pretrained, channels: int, images: ImageSet) -> None:
    if images.channels != channels:
        raise UserError(f"{source} takes images with {channels} channels, these have {images.channels}.")
    if found.only_size and images.image_size != found.image_size:
        height, width = found.image_size
        have = "x".join(map(str, images.image_size))
        raise UserError(
            f"{source} takes images of {height}x{width} ({found.resizing}), those of {images.name} are "
            f"{have}. A folder of images can be resized: folder:DIR?resize={height}&crop={height}."
        )


@torch.no_grad()
def _classes(network: nn.Module, channels: int, size: tuple[int, int], device: torch.device) -> int:
    """The number of logits."""
    return int(network(torch.zeros(1, channels, *size, device=device)).shape[1])


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> Normalisation:
    """The entry of the table with these values, else one of its own."""
    stated = Normalisation("stated by the library", tuple(mean), tuple(std))
    return next((one for one in NORMALISATIONS.values() if _same(one, stated)), stated)


def _same(one: Normalisation, other: Normalisation) -> bool:
    return len(one.mean) in (1, len(other.mean)) and equivalent(one, other, 1e-6)
