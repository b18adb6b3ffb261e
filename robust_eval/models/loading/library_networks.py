"""Networks that timm, torchvision and RobustBench define, with initial weights."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from robust_eval.core import extras
from robust_eval.core.errors import UserError, unknown
from robust_eval.models import robustbench_package

if TYPE_CHECKING:
    from robust_eval.models.loading.network_sources import Shape


_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
"""Of RobustBench's datasets."""


def timm_package(purpose: str) -> Any:
    """Import timm. ``purpose``: what needs it, the start of the message if it is missing.

    An older timm does not find some functions of the newest huggingface_hub, and then takes it for missing;
    it is given the one with which it downloads.
    """
    package = extras.load("timm", "timm", purpose)
    hub: Any = importlib.import_module("timm.models._hub")
    if not hub.has_hf_hub() and importlib.util.find_spec("huggingface_hub") is not None:
        found: Any = importlib.import_module("huggingface_hub")
        hub.hf_hub_download = found.hf_hub_download
        hub.EntryNotFoundError = importlib.import_module("huggingface_hub.errors").EntryNotFoundError
        hub._has_hf_hub = True
    return package


def knows(source: str, name: str) -> bool:
    """Whether an installed library (``timm`` or ``torchvision``) has a classifier of this name."""
    if source == "timm":
        found = importlib.util.find_spec("timm") is not None
        return found and bool(timm_package("timm").is_model(name))
    from torchvision import models

    return name in models.list_models(module=models)


def timm(name: str, shape: Shape, arguments: Mapping[str, Any]) -> nn.Module:
    """A model of timm, for any number of classes and channels.

    Models that are built for one image size, such as vision transformers, are built for that of the images.
    ``stem_stride``, beyond timm's own arguments: of XCiT for small images (Debenedetti et al. 2022).
    """
    package = timm_package(f"timm:{name}")
    if not package.is_model(name):
        raise unknown("timm model", name, package.list_models())
    settings: dict[str, Any] = {"num_classes": shape.classes, "in_chans": shape.channels}
    described = package.get_pretrained_cfg(name)
    if described is not None and described.fixed_input_size:
        settings["img_size"] = shape.image_size
    settings |= {key: value for key, value in arguments.items() if key != "stem_stride"}
    network: nn.Module = package.create_model(name, pretrained=False, **settings)
    if "stem_stride" in arguments:
        _set_stem_stride(network, arguments["stem_stride"])
    return network


def _set_stem_stride(network: nn.Module, stride: int) -> None:
    """Give the first convolutions of a stem, which have stride 2, stride 1, so that ``stride`` remains."""
    stem = network.get_submodule("patch_embed.proj")
    halving = [layer for layer in stem.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    kept = int(stride).bit_length() - 1
    if stride != 2**kept or kept > len(halving):
        raise UserError(f"stem_stride={stride} must be a power of 2, at most {2 ** len(halving)}.")
    for layer in halving[: len(halving) - kept]:
        layer.stride = (1, 1)


def torchvision(name: str, shape: Shape, arguments: Mapping[str, Any]) -> nn.Module:
    """A classifier of torchvision, for three channels and any number of classes."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    if shape.channels != 3:
        raise UserError(f"torchvision:{name} takes images with 3 channels, these have {shape.channels}.")
    settings: dict[str, Any] = {"num_classes": shape.classes}
    if name.startswith("vit_"):
        settings["image_size"] = shape.image_size[0]
    if name in ("googlenet", "inception_v3"):
        settings |= {"init_weights": False, "aux_logits": False}
    network: nn.Module = models.get_model(name, weights=None, **{**settings, **arguments})
    return network


def robustbench(name: str, shape: Shape, arguments: Mapping[str, Any]) -> nn.Module:
    """The network of an entry of RobustBench's zoo, which has its own number of classes.

    Of entries of this name for several datasets, that for the dataset with as many classes.
    """
    if arguments:
        raise UserError(f"robustbench:{name} has no arguments: omit what follows the question mark.")
    with robustbench_package.in_use():
        models = robustbench_package.models()
        datasets = sorted(models, key=lambda dataset: _CLASSES.get(dataset) != shape.classes)
        entries = [
            (entry_id, entry)
            for dataset in datasets
            for table in models[dataset].values()
            for entry_id, entry in table.items()
        ]
        for entry_id, entry in entries:
            if entry_id == name:
                network: nn.Module = entry["model"]()
                return network
    raise unknown("RobustBench model", name, {entry_id for entry_id, _ in entries})
