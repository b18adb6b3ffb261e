"""The networks of RobustBench's CIFAR-10 entries: what is inferred from their tensors is what they compute.

They are built without weights. All are built in full size on the meta device, where tensors have shapes only;
narrow ones, with BatchNorm statistics of the images, are loaded without options and compared with themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models import robustbench_package
from robust_eval.models.loading import architecture_fit, checkpoint

pytestmark = [
    pytest.mark.skipif(find_spec("robustbench") is None, reason="the extra zoo is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

NOT_BUILT = {
    "Bai2023Improving_edm": "three networks and a mixing network, moved to a GPU",
    "Bai2024MixedNUTS": "two networks, mixed by functions of their logits",
    "Kang2021Stable": "a differential equation",
}
REFUSED = {
    "Chen2020Adversarial": "average probabilities of three networks",
    "Sehwag2021Proxy_ResNest152": "split attention, used by this entry only",
}
DOUBTED = ("Pang2020Boosting", "Debenedetti2022Light_XCiT")
"""The scale of a cosine head, and the strides of XCiT's stem, remain open."""
XCIT = {f"Debenedetti2022Light_XCiT-{size}12": size.lower() for size in "SML"}
"""Names for which RobustBench calls timm with a name that it does not register."""
NARROW: Mapping[str, Any] = {
    "depth": 10,
    "width": 1,
    "widen_factor": 1,
    "channel_configs": [16, 16, 40, 24],
    "depth_configs": [2, 1, 1],
    "stem_width": 24,
    "stage_width": [16, 40, 24],
}
"""Sizes of the narrow networks, by the names of the parameters in RobustBench."""
MODULES = (
    *("dm_wide_resnet", "wide_resnet", "robust_wide_resnet", "robust_resnet", "robustarch_wide_resnet"),
    *("paf_wide_resnet", "Meansparse_wrn_94_16", "Meansparse_wrn_70_16", "Meansparse_ra_wrn_70_16"),
)


def entries() -> dict[str, Callable[[], nn.Module]]:
    table = robustbench_package.models()["cifar10"]
    xcit = robustbench_package.module("model_zoo.architectures.xcit")
    for name, size in XCIT.items():
        table["Linf"][name]["model"] = getattr(xcit, f"debenedetti2022light_xcit_{size}12_cifar10_linf")  # type: ignore[index]
    return {
        f"{threat}:{name}": entry["model"]
        for threat in ("Linf", "L2")
        for name, entry in table[threat].items()
    }


def narrow_init(own: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(own)

    def init(self: nn.Module, *args: object, **keywords: object) -> None:
        given = signature.bind(self, *args, **keywords)
        given.apply_defaults()
        for name in given.arguments.keys() & NARROW.keys():
            value = given.arguments[name]
            if name == "depth" and not isinstance(value, int):
                given.arguments[name] = NARROW["depth_configs"]
            elif value not in (0, 18):  # of DMPreActResNet, which has one width
                given.arguments[name] = NARROW[name]
        own(*given.args, **given.kwargs)

    return init


@contextmanager
def narrow() -> Iterator[None]:
    """Within the block, networks of RobustBench with variable sizes have small ones."""
    with ExitStack() as stack:
        for name in MODULES:
            module = robustbench_package.module(f"model_zoo.architectures.{name}")
            for one in vars(module).values():
                if isinstance(one, type) and one.__module__ == module.__name__:
                    parameters = inspect.signature(one.__init__).parameters  # type: ignore[misc]
                    if parameters.keys() & {"depth", "channel_configs"}:
                        stack.enter_context(patch.object(one, "__init__", narrow_init(one.__init__)))  # type: ignore[misc]
        yield


@pytest.fixture(scope="module", name="cifar")
def cifar_() -> tuple[torch.Tensor, np.ndarray]:
    """Images of coarse structure and noise, as (N, C, H, W) in [0, 1] and (N, H, W, C) in 0 to 255."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(160, 3, 4, 4, generator=generator), size=(32, 32), mode="bicubic")
    mixed = 0.9 * coarse + 0.1 * torch.rand(160, 3, 32, 32, generator=generator)
    x = (255 * mixed.clamp(0, 1)).round().to(torch.uint8)
    return x.float() / 255, x.permute(0, 2, 3, 1).numpy()


def check_loaded(
    network: nn.Module, name: str, cifar: tuple[torch.Tensor, np.ndarray], tmp_path: Path
) -> None:
    """Load its state dict without options, on images with its own predictions as labels."""
    x, pixels = cifar
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
        elif type(layer).__name__ == "MeanSparse":
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.1, 0.3)  # type: ignore[arg-type]
            nn.init.constant_(layer.threshold, 0.3)  # type: ignore[arg-type]
    with torch.no_grad():
        network.train()(x)
        logits = network.eval()(x)
    torch.save(network.state_dict(), tmp_path / "c.pt")
    labels = logits.argmax(1).numpy()
    images = ImageSet("cifar10", "test", pixels, labels, tuple(f"class {i}" for i in range(10)))
    loaded = checkpoint.load(str(tmp_path / "c.pt"), images=images)
    with torch.no_grad():
        assert (loaded.model(x) - logits).abs().max() < 1e-5, name
    doubts = ["architecture-uncertain"] if name.startswith(DOUBTED) else []
    assert [flag for flag, _ in loaded.doubts.raised] == doubts, name


def test_all_entries_are_recognised_in_full_size() -> None:
    recognised, refused, unbuilt = [], set(), set()
    with robustbench_package.in_use():
        for title, build in entries().items():
            name = title.partition(":")[2]
            if name in XCIT:
                recognised.append(title)  # by its widths, which the other test builds
                continue
            if name in NOT_BUILT:
                unbuilt.add(name)
                continue
            with torch.device("meta"):
                state = build().state_dict()
            tensors = {key: value for key, value in state.items() if key not in ("mu", "sigma")}
            try:
                architecture_fit.fit(tensors, name)
                recognised.append(title)
            except UserError:
                refused.add(name)
    assert refused == REFUSED.keys()
    assert unbuilt == NOT_BUILT.keys()
    assert len(recognised) >= 90


def test_all_entries_load_as_what_they_compute(
    cifar: tuple[torch.Tensor, np.ndarray], tmp_path: Path
) -> None:
    seen = set()
    with robustbench_package.in_use(), narrow():
        for title, build in entries().items():
            name = title.partition(":")[2]
            if name in {*NOT_BUILT, *REFUSED}:
                continue
            torch.manual_seed(0)
            network = build()
            # What distinguishes the functions of entries with the same sizes.
            kind = (type(network), repr(network), *(str(getattr(network, key, "")) for key in ("mean", "mu")))
            if kind not in seen:
                check_loaded(network, name, cifar, tmp_path)
            seen.add(kind)
    assert len(seen) > 18
