"""Which network of timm or torchvision a file may hold, if no architecture of this package fits.

Scripts of timm and of PyTorch's ImageNet example write the name as ``arch``; else the tensors tell it for the
usual families. A guess must then fit tensor by tensor, like any ``--arch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from robust_eval.models.architectures import Shapes, count_children
from robust_eval.models.loading import external_networks, library_networks, network_sources
from robust_eval.models.loading.foreign_weights import Weights
from robust_eval.models.loading.load_task import LoadedModel, LoadTask
from robust_eval.models.loading.state_dict_diff import NoFitError, compare, shapes_of
from robust_eval.models.loading.unrecorded import UNCERTAIN

_WORDS = ("arch", "architecture", "model", "model_name")
"""Entries of a file that may name its network."""
_VIT = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
_XCIT = {128: "nano", 192: "tiny", 384: "small", 512: "medium", 768: "large"}
_CONVNEXT = {
    (40, 6): "atto",
    (48, 6): "femto",
    (64, 6): "pico",
    (80, 8): "nano",
    (96, 9): "tiny",
    (96, 27): "small",
    (128, 27): "base",
    (192, 27): "large",
    (256, 27): "xlarge",
}
"""By the channels of the first stage and the blocks of the third."""
_SWIN = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}
_SWIN_WINDOWS = {13**2: (7, 224), 23**2: (12, 384)}
"""Window and image size, by the number of relative positions."""
_TORCHVISION = {
    "features.denseblock1.denselayer1.norm1.weight": ("densenet121", "densenet169", "densenet201"),
    "features.18.0.weight": ("mobilenet_v2",),
    "features.0.0.weight": ("efficientnet_b0", "mobilenet_v3_small", "mobilenet_v3_large"),
    "stage4.0.branch1.0.weight": ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    "stage2.0.branch1.0.weight": ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    "inception3a.branch1.conv.weight": ("googlenet",),
}
"""Names by a tensor that the networks have; their shapes distinguish them."""
_XCIT_HEADS = {"nano": 4, "tiny": 4, "small": 8, "medium": 8, "large": 16}
_SMALL_IMAGES, _SMALL_STRIDE = 112, 4
"""XCiT for images below this side has a stem of this stride (Debenedetti et al. 2022)."""
_BY_TENSORS = "by its tensors"


@dataclass(frozen=True)
class Guess:
    """A network of a library that a file may hold."""

    arch: str
    """``SOURCE:NAME?arguments``"""
    why: str
    untold: str = ""
    """What neither name nor tensors tell; '' if nothing is open."""


def load(task: LoadTask, weights: Weights) -> LoadedModel | None:
    """The model, if a guess fits; None if there is no guess, or no images, which give the size.

    Raises:
        UserError: if a guess fits and the model cannot be used, or if timm is needed and missing.
    """
    if task.images is None:
        return None
    for guess in _guesses(weights, max(task.images.image_size) < _SMALL_IMAGES):
        try:
            loaded = external_networks.load(task, guess.arch, weights)
        except NoFitError:
            continue
        ref = replace(loaded.ref, notes=(*loaded.ref.notes, f"{guess.arch} {guess.why}"))
        findings = ((UNCERTAIN, f"{guess.arch}: {guess.untold}"),) if guess.untold else ()
        doubts = replace(loaded.doubts, findings=(*loaded.doubts.findings, *findings))
        return replace(loaded, ref=ref, doubts=doubts)
    return None


def _guesses(weights: Weights, small: bool) -> Iterator[Guess]:
    shapes = _without_prefix(shapes_of(weights.state))
    for word in _WORDS:
        name = weights.facts.get(word)
        if isinstance(name, str):
            for source in ("torchvision", "timm"):
                if library_networks.knows(source, name):
                    yield Guess(f"{source}:{name}", f"is named in the file ({word})")
    for guess in (_xcit(shapes, small), _vit(shapes), _convnext(shapes), _swin(shapes)):
        if guess is not None:
            yield guess
    yield from _of_torchvision(shapes)


def _without_prefix(shapes: Shapes) -> Shapes:
    """Without the components that all names begin with, as :func:`external_networks.load` tries it."""
    first = {name.partition(".")[0] for name in shapes}
    if len(first) > 1 or not all("." in name for name in shapes):
        return shapes
    return _without_prefix({name.partition(".")[2]: shape for name, shape in shapes.items()})


def _with(name: str, given: Mapping[str, int], usual: Mapping[str, int]) -> str:
    """``timm:NAME?arguments`` with the arguments that differ from the usual ones."""
    arguments = "&".join(f"{key}={value}" for key, value in given.items() if value != usual[key])
    return f"timm:{name}?{arguments}" if arguments else f"timm:{name}"


def _vit(shapes: Shapes) -> Guess | None:
    token, patches = shapes.get("cls_token"), shapes.get("patch_embed.proj.weight")
    if not token or not patches or "blocks.0.attn.qkv.weight" not in shapes or token[-1] not in _VIT:
        return None
    size = _VIT[token[-1]]
    distilled = "dist_token" in shapes and size != "large"
    name = f"deit_{size}_distilled_patch16_224" if distilled else f"vit_{size}_patch16_224"
    given = {"patch_size": patches[-1], "depth": count_children(shapes, "blocks")}
    arch = _with(name, given, {"patch_size": 16, "depth": 24 if size == "large" else 12})
    # The published sizes have one number of heads, 64 channels each; networks of other sizes may have any.
    untold = "the number of attention heads has no tensors, that of timm is assumed (num_heads)"
    return Guess(arch, _BY_TENSORS, untold if "?" in arch else "")


def _xcit(shapes: Shapes, small: bool) -> Guess | None:
    token, heads = shapes.get("cls_token"), shapes.get("blocks.0.attn.temperature")
    if not token or not heads or token[-1] not in _XCIT:
        return None
    size, patch = _XCIT[token[-1]], 16 if "patch_embed.proj.6.0.weight" in shapes else 8
    usual = {"depth": 24 if size in ("medium", "large") else 12, "num_heads": _XCIT_HEADS[size]}
    given = {"depth": count_children(shapes, "blocks"), "num_heads": heads[0]}
    stride = _SMALL_STRIDE if small else patch
    arch = _with(
        f"xcit_{size}_{usual['depth']}_p{patch}_224",
        {**given, "stem_stride": stride},
        {**usual, "stem_stride": patch},
    )
    untold = f"the strides of the stem have no tensors, {stride} in all is assumed (stem_stride)"
    return Guess(arch, _BY_TENSORS, untold if small else "")


def _convnext(shapes: Shapes) -> Guess | None:
    stem = shapes.get("stem.0.weight")
    if not stem or "stages.0.blocks.0.conv_dw.weight" not in shapes:
        return None
    size = _CONVNEXT.get((stem[0], count_children(shapes, "stages.2.blocks")))
    version = "v2" if "stages.0.blocks.0.mlp.grn.weight" in shapes else ""
    return None if size is None else Guess(f"timm:convnext{version}_{size}", _BY_TENSORS)


def _swin(shapes: Shapes) -> Guess | None:
    stem = shapes.get("patch_embed.proj.weight")
    table = shapes.get("layers.0.blocks.0.attn.relative_position_bias_table")
    if not stem or not table or table[0] not in _SWIN_WINDOWS:
        return None
    size = _SWIN.get((stem[0], count_children(shapes, "layers.2.blocks")))
    window, side = _SWIN_WINDOWS[table[0]]
    return None if size is None else Guess(f"timm:swin_{size}_patch4_window{window}_{side}", _BY_TENSORS)


def _of_torchvision(shapes: Shapes) -> Iterator[Guess]:
    classes = list(shapes.values())[-1][:1]
    names = {name for tensor, family in _TORCHVISION.items() if tensor in shapes for name in family}
    for name in sorted(names) if classes else ():
        shape = network_sources.Shape(classes[0], 3, (224, 224))
        with torch.device("meta"):
            built = network_sources.build(f"torchvision:{name}", shape)
        if compare(shapes_of(built.state_dict()), shapes).exact:
            yield Guess(f"torchvision:{name}", _BY_TENSORS)
