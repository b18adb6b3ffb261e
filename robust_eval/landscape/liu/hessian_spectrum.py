"""The largest Hessian eigenvalues of checkpoints, a measure of sharpness (Liu et al. 2020)."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robust_eval.core import figure_style, strict_arrays
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, create_folder, report_write_errors
from robust_eval.evaluation.store import lock_run_folder
from robust_eval.landscape.checkpoints import ComparedModel
from robust_eval.landscape.liu.hessian import Eigenpair, Hessian, top_eigenpairs
from robust_eval.landscape.liu.measurement import Measurement, PartialResults, partial_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND, VERSION = "hessian", 1


@dataclass(frozen=True)
class Eigenvalue:
    """One eigenvalue of one checkpoint's Hessian. The field names are those of the JSON."""

    label: str
    rank: int
    """From 1, by decreasing absolute value; in stored partial results, the order in which they were found."""
    value: float
    residual: float
    """The Hessian has an eigenvalue at most this far from ``value``."""
    iterations: int
    converged: bool


def measure(
    measurement: Measurement,
    count: int,
    folder: Path,
    *,
    tolerance: float,
    iterations: int,
    on_result: Callable[[Eigenvalue], None] = lambda _eigenvalue: None,
) -> list[Eigenvalue]:
    """The ``count`` eigenvalues of largest size of every checkpoint; finished ones are read from ``folder``.

    The Hessian is that of the mean cross-entropy on adversarial images made once at the checkpoint's weights,
    with respect to all parameters. Raises :class:`UserError` for a folder of another measurement.
    """
    eigenvalues: list[Eigenvalue] = []
    comparison = measurement.comparison
    with lock_run_folder(folder):
        options = {"tolerance": tolerance, "iterations": iterations}
        comparison.open_folder(folder, measurement.identity() | options)
        for model in comparison.models:
            own = []
            for stored in _eigenvalues(measurement, model, count, folder, tolerance, iterations):
                eigenvalue = replace(stored, label=model.label)
                own.append(eigenvalue)
                on_result(eigenvalue)
            # Eigenvalues of nearly equal size may be found in either order.
            own.sort(key=lambda one: -abs(one.value))
            eigenvalues += [replace(one, rank=rank) for rank, one in enumerate(own, 1)]
    return eigenvalues


def _eigenvalues(
    measurement: Measurement,
    model: ComparedModel,
    count: int,
    folder: Path,
    tolerance: float,
    iterations: int,
) -> Iterator[Eigenvalue]:
    results = PartialResults(folder)
    pairs: list[Eigenpair] = []
    hessian: Hessian | None = None
    size = sum(p.numel() for p in model.model.parameters())
    for rank in range(1, min(count, size) + 1):
        name = partial_name(**model.ref.weights, rank=rank)
        file = results.folder / f"{name}.npy"
        stored, vector_P = results.get(name, Eigenvalue), _read(file, size)
        if stored is None or vector_P is None:
            hessian = hessian or _hessian(measurement, model)
            pair = next(
                top_eigenpairs(
                    hessian,
                    rank,
                    seed=measurement.seed,
                    tolerance=tolerance,
                    iterations=iterations,
                    known=pairs,
                )
            )
            _write(file, pair.vector_P)
            stored = Eigenvalue(model.label, rank, pair.value, pair.residual, pair.iterations, pair.converged)
            results.put(name, stored)
            vector_P = pair.vector_P
        on_device = vector_P.to(measurement.comparison.x_NCHW.device)
        pairs.append(Eigenpair(stored.value, on_device, stored.residual, stored.iterations, stored.converged))
        yield stored


def _hessian(measurement: Measurement, model: ComparedModel) -> Hessian:
    x_adv_NCHW = measurement.adversarial_images(measurement.attack_copy(model.model))
    network = copy.deepcopy(model.model).eval().requires_grad_(True)
    return Hessian(network, x_adv_NCHW, measurement.comparison.y_N, batch_size=measurement.batch_size)


def _read(file: Path, size: int) -> Tensor | None:
    try:
        vector = strict_arrays.read_npy(file, 16 * size + 2**16)
    except UserError:
        return None
    return torch.from_numpy(vector) if vector.shape == (size,) and vector.dtype.kind == "f" else None


def _write(file: Path, vector_P: Tensor) -> None:
    # Written to memory first: numpy reports a full disk without the system's error number.
    content = io.BytesIO()
    np.save(content, vector_P.cpu().numpy())
    with report_write_errors(file.parent.parent):
        create_folder(file.parent)
        with atomic(file) as handle:
            handle.write(content.getvalue())


def spectrum_figure(eigenvalues: Sequence[Eigenvalue], measurement: Measurement) -> Figure:
    """Eigenvalues by rank, with their residuals as error bars."""
    with figure_style.style():
        canvas, (axis,) = figure_style.panels(height=2.5)
        for index, label in enumerate(dict.fromkeys(one.label for one in eigenvalues)):
            own = [one for one in eigenvalues if one.label == label]
            axis.errorbar(
                [one.rank for one in own],
                [one.value for one in own],
                yerr=[one.residual for one in own],
                capsize=1.5,
                elinewidth=0.7,
                **figure_style.line(index),
                label=label,
            )
        axis.axhline(0, color=figure_style.GREY, linewidth=0.6)
        axis.set_xticks(range(1, max(one.rank for one in eigenvalues) + 1))
        axis.set_xlabel("rank by size")
        axis.set_ylabel("eigenvalue of the Hessian\n(nats per squared weight)")
        figure_style.legend(canvas, axis)
        canvas.suptitle(measurement.caption(), fontsize=8)
    return canvas


def to_data(
    eigenvalues: Sequence[Eigenvalue], measurement: Measurement, tolerance: float, iterations: int
) -> dict[str, Any]:
    """The content of the JSON file."""
    return {
        **measurement.record(),
        "hessian": "in all parameters, of the loss on adversarial images made once at the checkpoint",
        "units": "nats per squared weight",
        "method": f"power iteration with deflation, to {tolerance:g}, at most {iterations} products",
        "checkpoints": [one.record() for one in measurement.comparison.models],
        "eigenvalues": [asdict(one) for one in eigenvalues],
    }
