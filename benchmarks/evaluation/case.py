"""The benchmark cases (``Work``) and the compared implementations (``Side``) of ``python -m benchmarks``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Side:
    """One of the compared implementations; it runs in its own process."""

    module: tuple[str, ...]
    """Module for ``python -m``, followed by its first arguments."""
    precision: str = "float32"
    peer: bool = False
    """Runs in the environment of ``peer_environment.py``."""


SIDES: Mapping[str, Side] = {
    "ours": Side(("benchmarks.evaluation.side_robust_eval",)),
    "ours bf16": Side(("benchmarks.evaluation.side_robust_eval",), "bfloat16"),
    "plain": Side(("benchmarks.evaluation.side_art_autoattack",)),
    "torchattacks": Side(("benchmarks.evaluation.side_torchattacks_foolbox", "torchattacks"), peer=True),
    "foolbox": Side(("benchmarks.evaluation.side_torchattacks_foolbox", "foolbox"), peer=True),
}
SUITES = ("full", "clean", "fgsm", "pgd-20", "pgd-100", "cw-inf", "spsa", "aa")
"""Suites that the plain script can run."""
PEERS_DO = ("full", "pgd-20")
"""Suites with PGD-20, the only column that torchattacks and foolbox run."""
REFERENCE = "plain"
"""The side whose verdicts the others are compared with: ART and pyautoattack, unmodified."""
_OWN = ("ours", "ours bf16", REFERENCE)
_ALL = (*_OWN, "torchattacks", "foolbox")


@dataclass(frozen=True)
class Work:
    """A benchmark case: the suite, images and epsilon that all sides attack.

    ``data`` is ``cifar`` for the images of ``--cifar``.
    """

    name: str
    suite: str
    data: str
    eps: str
    examples: int
    sides: tuple[str, ...] = _OWN
    batch_size: int = 250
    gpu: bool = False
    """Too long for a CPU, where it only runs if selected with ``--work``."""


# Attacks at 8/255 break all examples of the undefended ResNet-18 that pyautoattack includes. At 1/255 some
# remain robust, so that verdicts can differ.
WORKS = (
    Work("digits full", "full", "digits", "0.1", 200),
    Work("mnist full", "full", "mnist", "0.3", 25),
    Work("mnist autoattack", "aa", "mnist", "0.3", 100),
    Work("resnet-18 pgd-20", "pgd-20", "cifar", "1/255", 128, _ALL, 128),
    Work("resnet-18 autoattack", "aa", "cifar", "1/255", 8),
    Work("resnet-18 full", "full", "cifar", "1/255", 1000, ("ours", "ours bf16"), 500, gpu=True),
)
