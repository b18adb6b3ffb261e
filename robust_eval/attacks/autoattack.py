"""The stages of AutoAttack ("standard" version), one at a time, with the code of its authors.

Uses the git distribution ``autoattack`` if it is installed, else ``pyautoattack`` (the PyPI release by the
same authors, with the same attack code). The attack objects are those that the library creates for
``AutoAttack(version="standard")``, called as the library calls them.

Few classes change the stages (described by :func:`note`): there are at most classes - 1 targets; the
targeted DLR loss needs four classes, so with three classes ``apgd-t`` uses the untargeted DLR loss; with
two classes no DLR loss exists, and ``apgd-t`` is left out.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
CITATION = "Croce and Hein, Reliable Evaluation of Adversarial Robustness with AutoAttack, ICML 2020"

# Standard version: 9 targets in APGD-T and FAB-T, 100 iterations, 5000 queries in Square.
TARGETS, ITERATIONS, QUERIES = 9, 100, 5000

# Without a handler, warnings of the library would be printed over the live display.
logging.getLogger("auto-attack").addHandler(logging.NullHandler())


def _distribution() -> str:
    try:
        metadata.distribution("autoattack")
    except metadata.PackageNotFoundError:
        return "pyautoattack"
    return "autoattack"


LIBRARY = _distribution()


@dataclass(frozen=True, kw_only=True)
class Params:
    """One stage of AutoAttack (``phase``), with the settings of ``version="standard"`` (not configurable)."""

    phase: Literal["apgd-ce", "apgd-t", "fab-t", "square"] = "apgd-ce"
    version: Literal["standard"] = "standard"


def _targets(classes: int) -> int:
    return min(TARGETS, classes - 1)


def note(params: Params, classes: int) -> str:
    """How a small number of classes changes a stage; '' if it does not."""
    if params.phase == "apgd-t" and classes == 2:
        return "left out: the DLR loss needs three classes"
    if params.phase == "apgd-t" and classes == 3:
        return "untargeted DLR loss: the targeted one needs four classes"
    if params.phase in ("apgd-t", "fab-t") and _targets(classes) < TARGETS:
        count = _targets(classes)
        return f"{count} target{'s' * (count > 1)} instead of {TARGETS}: there are {classes} classes"
    return ""


def problem(params: Params, threat: ThreatModel, image_size: tuple[int, int]) -> str:
    """Why a stage fails on images of this size: Square in L2 starts with tiles of a fifth of the height."""
    if params.phase != "square" or threat.norm != "L2":
        return ""
    side = image_size[0] // 5
    margin = (image_size[0] - 5 * side) // 2
    # A tile of one pixel beyond the border is harmless: it changes no pixel.
    fits = side == 1 or (side and all(margin + n // side * side <= n for n in image_size))
    size = " x ".join(map(str, image_size))
    return "" if fits else f"AutoAttack's Square in L2 cannot place its tiles on images of {size} pixels."


def cost(params: Params, classes: int) -> Cost:
    gradients, targets = ITERATIONS + 1, _targets(classes)
    if params.phase == "fab-t":
        # Per target: two predictions, a gradient and a prediction per iteration, and a final check.
        return Cost(1 + targets * (2 + 2 * ITERATIONS + 1) + 1, targets * ITERATIONS)
    if params.phase == "square":
        return Cost(1 + 1 + QUERIES + 1, 0)
    if params.phase == "apgd-ce" or classes == 3:
        return Cost(1 + gradients, gradients)
    if classes == 2:
        return Cost(0, 0)
    return Cost(1 + targets * (1 + gradients), targets * gradients)


def search(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel,
    params: Params,
    *,
    classes: int,
    seed: int,
) -> Tensor:
    """Adversarial images (N, C, H, W); see :mod:`robust_eval.attacks` for the contract.

    Returns the clean image if the stage finds no adversarial image (FAB: none within epsilon).
    """
    import torch

    x_NCHW = x_NCHW.detach().contiguous()
    if len(x_NCHW) == 0 or (params.phase == "apgd-t" and classes == 2):
        return x_NCHW.clone()
    phase = _phase(_standard(model, x_NCHW, threat, seed), params, classes)
    with torch.no_grad():
        adv: Tensor = phase.perturb(x_NCHW, y_N)
        return _past_the_boundary(model, x_NCHW, y_N, adv, threat) if params.phase == "fab-t" else adv


def _past_the_boundary(
    model: nn.Module, x_NCHW: Tensor, y_N: Tensor, adv_NCHW: Tensor, threat: ThreatModel
) -> Tensor:
    """Enlarge the perturbations of FAB by up to 1%, within epsilon, if the image stays misclassified.

    FAB minimises the norm, so its images are on the decision boundary, where a different memory layout,
    batch size or precision can change the prediction.
    """
    from robust_eval.core.norms import norm_per_image

    delta = adv_NCHW - x_NCHW
    factor = (threat.radius / norm_per_image(delta, threat.norm)).clamp(1.0, 1.01)
    farther = (x_NCHW + delta * factor.view(-1, 1, 1, 1)).clamp(0, 1)
    broken = model(farther).argmax(1) != y_N
    return farther.where(broken.view(-1, 1, 1, 1), adv_NCHW)


def _standard(model: nn.Module, x_NCHW: Tensor, threat: ThreatModel, seed: int) -> Any:
    settings = {"norm": threat.norm, "eps": threat.radius, "seed": seed, "device": x_NCHW.device}
    if LIBRARY == "autoattack":
        from autoattack import AutoAttack

        return AutoAttack(model, version="standard", verbose=False, **settings)
    from pyautoattack import AutoAttack

    return AutoAttack(model, version="standard", **settings)


def _phase(standard: Any, params: Params, classes: int) -> Any:
    """The attack object of the library for a stage, configured as the library configures it."""
    if params.phase == "square":
        return standard.square
    if params.phase == "fab-t":
        standard.fab.targeted = True
        standard.fab.n_target_classes = _targets(classes)
        return standard.fab
    if params.phase == "apgd-t" and classes > 3:
        standard.apgd_targeted.n_target_classes = _targets(classes)
        return _without_underflow(standard.apgd_targeted)
    standard.apgd.loss = "ce" if params.phase == "apgd-ce" else "dlr"
    return _without_underflow(standard.apgd)


def _without_underflow(apgd: Any) -> Any:
    """APGD that scales small gradients before it divides them by their L2 norm plus 1e-12.

    FAB is left alone: its projection needs the size of the gradients. Square has none.
    """
    from robust_eval.core.norms import scale_small_gradients

    if apgd.norm == "L2":
        divide = apgd.normalize
        apgd.normalize = lambda gradient: divide(scale_small_gradients(gradient))
    return apgd
