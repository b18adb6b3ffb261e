"""What the sides share: the inputs they are handed and the form in which they report."""

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
    """One column of the suite on one side."""

    bits: str
    """One character per example: 1 robust, 0 not."""
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.bits.count("1") / len(self.bits)


@dataclass(frozen=True)
class Report:
    """One side of one work."""

    seconds: float
    """Of the attacks and their judgement; imports and reading the model are left out."""
    processor_seconds: float
    """Of the same stretch, over all threads: what other programs on the machine hardly change."""
    peak_mib: float
    """The largest memory: of the process, imports included; on a GPU what torch held there."""
    columns: Mapping[str, Measured]
    operations: Mapping[str, float] = field(default_factory=dict)
    """By precision, floating-point operations of the network's passes; empty where nobody counted."""

    @classmethod
    def read(cls, path: Path) -> Report:
        table = json.loads(path.read_text(encoding="utf-8"))
        columns = {name: Measured(**column) for name, column in table.pop("columns").items()}
        return cls(columns=columns, **table)


class Stopwatch:
    """Both clocks of a report, from its making."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def write(
        self, path: Path, columns: Mapping[str, Measured], operations: Mapping[str, float] | None = None
    ) -> None:
        """Stop, and write the report."""
        seconds, processor = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        report = Report(seconds, processor, peak_mib(), columns, operations or {})
        path.write_text(json.dumps(asdict(report)), encoding="utf-8")


def peak_mib() -> float:
    """Largest memory of this process so far: on the GPU where one was used, else resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def arguments(description: str | None) -> argparse.Namespace:
    """``--folder`` holds model.pt and images.npz; the report goes to ``--out``."""
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
    """A model from [0, 1] pixels to logits in eval mode, x_NCHW float32 and y_N int64, on the device."""
    import torch

    # torch loads sympy in its first backward pass of a certain kind: not while a clock runs.
    import torch.fx.experimental.symbolic_shapes

    from robust_eval import data
    from robust_eval.models.loading import checkpoint

    place = torch.device(device)
    images = data.load(f"npz:{folder / 'images.npz'}")
    loaded = checkpoint.load(str(folder / "model.pt"), images=images, device=place)
    x, y = images.tensors()
    return loaded.model, x.to(place), y.to(place)


def judged(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, size: int) -> torch.Tensor:
    """Which images the model gets right, (N,) bool, ``size`` at a time."""
    import torch

    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(x_NCHW, size)]) == y_N


def bits(robust_N: Tensor) -> str:
    return "".join("01"[int(bit)] for bit in robust_N)
