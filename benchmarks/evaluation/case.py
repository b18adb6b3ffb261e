"""What is measured: a suite on some images, and who does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Side:
    """A process of its own that does the work."""

    module: tuple[str, ...]
    """For ``python -m``, with its leading arguments."""
    precision: str = "float32"
    peer: bool = False
    """Needs the environment of ``peers.py``."""


SIDES: Mapping[str, Side] = {
    "ours": Side(("benchmarks.evaluation.side_robust_eval",)),
    "ours bf16": Side(("benchmarks.evaluation.side_robust_eval",), "bfloat16"),
    "plain": Side(("benchmarks.evaluation.side_art_autoattack",)),
    "torchattacks": Side(("benchmarks.evaluation.side_torchattacks_foolbox", "torchattacks"), peer=True),
    "foolbox": Side(("benchmarks.evaluation.side_torchattacks_foolbox", "foolbox"), peer=True),
}
SUITES = ("full", "clean", "fgsm", "pgd-20", "pgd-100", "cw-inf", "spsa", "aa")
"""What the plain script knows."""
PEERS_DO = ("full", "pgd-20")
"""Suites with the one column that torchattacks and foolbox fill."""
REFERENCE = "plain"
"""The side that the others' verdicts are compared with: ART and pyautoattack as they come."""
_OWN = ("ours", "ours bf16", REFERENCE)
_ALL = (*_OWN, "torchattacks", "foolbox")


@dataclass(frozen=True)
class Work:
    """What all sides attack. ``data`` is ``cifar`` for images named by ``--cifar``."""

    name: str
    suite: str
    data: str
    eps: str
    examples: int
    sides: tuple[str, ...] = _OWN
    batch_size: int = 250
    gpu: bool = False
    """Too long for a CPU: there it is done only where it is asked for by name."""


# The undefended ResNet-18 that ships with pyautoattack is broken everywhere at 8/255: at 1/255 some
# examples hold, so that verdicts can differ.
WORKS = (
    Work("digits full", "full", "digits", "0.1", 200),
    Work("mnist full", "full", "mnist", "0.3", 25),
    Work("mnist autoattack", "aa", "mnist", "0.3", 100),
    Work("resnet-18 pgd-20", "pgd-20", "cifar", "1/255", 128, _ALL, 128),
    Work("resnet-18 autoattack", "aa", "cifar", "1/255", 8),
    Work("resnet-18 full", "full", "cifar", "1/255", 1000, ("ours", "ours bf16"), 500, gpu=True),
)
