"""Shared by the ``side_*`` scripts: reading the inputs, and writing a report."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SEED = 0


@dataclass(frozen=True)
class Measured:
    """Verdicts and time of one column on one side."""

    bits: str
    """One character per example: 1 if robust, else 0."""
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.bits.count("1") / len(self.bits)


@dataclass(frozen=True)
class Report:
    """Measurements of one side on one case."""

    seconds: float
    """Wall time without imports of the side's process. That of this project includes loading and probing the
    model, and the start of its other processes."""
    processor_seconds: float
    """Processor time of the same, over all threads; other programs on the machine hardly affect it."""
    peak_mib: float
    """Peak memory of the side's process, including imports; on a GPU the peak of torch's allocations."""
    columns: Mapping[str, Measured]
    operations: Mapping[str, float] = field(default_factory=dict)
    """Floating-point operations of the network's passes, by precision; empty if not counted."""

    @classmethod
    def read(cls, path: Path) -> Report:
        table = json.loads(path.read_text(encoding="utf-8"))
        columns = {name: Measured(**column) for name, column in table.pop("columns").items()}
        return cls(columns=columns, **table)


class Stopwatch:
    """Measures wall and processor time from its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def write(
        self,
        path: Path,
        columns: Mapping[str, Measured],
        operations: Mapping[str, float] | None = None,
        elsewhere: float = 0.0,
    ) -> None:
        """Stop the clocks and write the report; ``elsewhere``: seconds that other processes were busy."""
        seconds, processor = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        report = Report(seconds, processor + elsewhere, peak_mib(), columns, operations or {})
        path.write_text(json.dumps(asdict(report)), encoding="utf-8")


def peak_mib() -> float:
    """Peak memory of this process in MiB: on the GPU if one was used, else resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def arguments(description: str | None) -> argparse.Namespace:
    """Arguments of a side: ``--folder`` contains model.pt and images.npz; ``--out`` is the report."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--suite", required=True, help="full, or column ids")
    parser.add_argument("--eps", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def inputs(folder: Path, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The model (pixels in [0, 1] to logits, eval mode), x_NCHW float32 and y_N int64, on the device."""
    import torch

    # torch imports sympy in some backward passes; import it before time is measured.
    import torch.fx.experimental.symbolic_shapes

    from robust_eval import data
    from robust_eval.models.loading import checkpoint

    target = torch.device(device)
    images = data.load(f"npz:{folder / 'images.npz'}")
    loaded = checkpoint.load(str(folder / "model.pt"), images=images, device=target)
    x, y = images.tensors()
    return loaded.model, x.to(target), y.to(target)


def judged(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, size: int) -> torch.Tensor:
    """Whether the model classifies each image correctly, (N,) bool; ``size`` images per batch."""
    import torch

    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(x_NCHW, size)]) == y_N


def bits(robust_N: Tensor) -> str:
    """One character per example: 1 if robust, else 0."""
    return "".join("01"[int(bit)] for bit in robust_N)
