"""How sharp are minima of adversarial training? Top Hessian eigenvalues of checkpoints (Liu et al. 2020)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robust_eval.core import figure_style
from robust_eval.core.files import atomic, writing
from robust_eval.evaluation.store import exclusive
from robust_eval.landscape.checkpoints import Subject
from robust_eval.landscape.liu import measurement
from robust_eval.landscape.liu.hessian import Eigenpair, Hessian, top_eigenpairs
from robust_eval.landscape.liu.measurement import Pieces, Setup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND, VERSION = "hessian", 1


@dataclass(frozen=True)
class Eigenvalue:
    """One eigenvalue of one checkpoint's Hessian."""

    label: str
    rank: int
    """From 1, by falling size; while measuring, in the order found."""
    value: float
    residual: float
    """An eigenvalue lies within this of ``value``."""
    iterations: int
    converged: bool


def measure(
    made: Setup,
    count: int,
    folder: Path,
    *,
    tolerance: float,
    iterations: int,
    told: Callable[[Eigenvalue], None] = lambda _eigenvalue: None,
) -> list[Eigenvalue]:
    """The ``count`` eigenvalues of largest size of every checkpoint; resumable eigenvalue by eigenvalue.

    The Hessian is that of the mean cross-entropy over adversarial images made once, at the checkpoint's
    own weights, with respect to all parameters.
    """
    found: list[Eigenvalue] = []
    with exclusive(folder):
        made.subjects.open(folder, made.identity() | {"tolerance": tolerance, "iterations": iterations})
        for subject in made.subjects.each:
            own = []
            for stored in _eigenvalues(made, subject, count, folder, tolerance, iterations):
                eigenvalue = replace(stored, label=subject.label)
                own.append(eigenvalue)
                told(eigenvalue)
            # Two of nearly the same size may be found in either order.
            own.sort(key=lambda one: -abs(one.value))
            found += [replace(one, rank=rank) for rank, one in enumerate(own, 1)]
    return found


def _eigenvalues(
    made: Setup, subject: Subject, count: int, folder: Path, tolerance: float, iterations: int
) -> Iterator[Eigenvalue]:
    pieces = Pieces(folder)
    pairs: list[Eigenpair] = []
    hessian: Hessian | None = None
    total = sum(p.numel() for p in subject.model.parameters())
    for rank in range(1, min(count, total) + 1):
        name = measurement.name(**subject.ref.weights, rank=rank)
        file = pieces.folder / f"{name}.npy"
        stored, vector_P = pieces.get(name, Eigenvalue), _read(file, total)
        if stored is None or vector_P is None:
            hessian = hessian or _hessian(made, subject)
            pair = next(
                top_eigenpairs(
                    hessian, rank, seed=made.seed, tolerance=tolerance, iterations=iterations, known=pairs
                )
            )
            _write(file, pair.vector_P)
            stored = Eigenvalue(
                subject.label, rank, pair.value, pair.residual, pair.iterations, pair.converged
            )
            pieces.put(name, stored)
            vector_P = pair.vector_P
        on_device = vector_P.to(made.subjects.x_NCHW.device)
        pairs.append(Eigenpair(stored.value, on_device, stored.residual, stored.iterations, stored.converged))
        yield stored


def _hessian(made: Setup, subject: Subject) -> Hessian:
    adv = made.attacked(made.attack_copy(subject.model))
    own = copy.deepcopy(subject.model).eval().requires_grad_(True)
    return Hessian(own, adv, made.subjects.y_N, batch=made.batch_size)


def _read(file: Path, size: int) -> Tensor | None:
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(found) if found.shape == (size,) else None


def _write(file: Path, vector_P: Tensor) -> None:
    with writing(file.parent.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as handle:
            np.save(handle, vector_P.cpu().numpy())


def draw(found: Sequence[Eigenvalue], made: Setup) -> Figure:
    with figure_style.style():
        canvas, (axis,) = figure_style.panels(height=2.5)
        for place, label in enumerate(dict.fromkeys(one.label for one in found)):
            own = [one for one in found if one.label == label]
            axis.errorbar(
                [one.rank for one in own],
                [one.value for one in own],
                yerr=[one.residual for one in own],
                capsize=1.5,
                elinewidth=0.7,
                **figure_style.line(place),
                label=label,
            )
        axis.axhline(0, color=figure_style.GREY, linewidth=0.6)
        axis.set_xticks(range(1, max(one.rank for one in found) + 1))
        axis.set_xlabel("rank by size")
        axis.set_ylabel("eigenvalue of the Hessian\n(nats per squared weight)")
        figure_style.legend(canvas, axis)
        canvas.suptitle(made.caption(), fontsize=8)
    return canvas


def to_data(found: Sequence[Eigenvalue], made: Setup, tolerance: float, iterations: int) -> dict[str, Any]:
    """Everything the figure shows and how it was made."""
    return {
        **made.record(),
        "hessian": "in all parameters, of the loss on adversarial images made once at the checkpoint",
        "units": "nats per squared weight",
        "method": f"power iteration with deflation, to {tolerance:g}, at most {iterations} products",
        "checkpoints": [
            {"label": s.label, "name": s.ref.name, "sha256": s.ref.sha256} for s in made.subjects.each
        ],
        "eigenvalues": [asdict(one) for one in found],
    }
