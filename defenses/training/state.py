"""What changes during training and is saved in the resume file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import nn

from defenses.training.runtime import Runtime
from defenses.training.weight_averaging import WeightAverage

Count = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[float, Field(strict=True)]


@dataclass
class TrainingProgress:
    """Counters, sums and learning-curve rows; plain numbers. The resume file uses these field names."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    epoch: Count = 0
    """Completed epochs: updates and measurement done."""
    iteration: Count = 0
    """Updates done in the current epoch."""
    loss_sum: Number = 0.0
    """Of the current epoch, over images; likewise ``images`` and ``seconds``."""
    images: Count = 0
    seconds: Number = 0.0
    best: Number = -1.0
    """Highest validation score so far."""
    best_epoch: Count = 0
    """Counted from 1; 0 before the first selection."""
    worse: Count = 0
    """Measurements since the best."""
    one_class: Count = 0
    """Consecutive measurements in which the network predicted a single class."""
    rows: list[dict[str, Annotated[int, Field(strict=True)] | Number]] = field(default_factory=list)

    def finish_epoch(self, row: dict[str, float]) -> None:
        """Add the epoch's row and start counting the next epoch."""
        self.rows.append(row)
        self.epoch += 1
        self.iteration, self.loss_sum, self.images, self.seconds = 0, 0.0, 0, 0.0


@dataclass
class TrainingState:
    """Network, optimiser, weight average and progress.

    No random generator is part of it: every random draw is seeded by (seed, epoch, iteration).
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    progress: TrainingProgress = field(default_factory=TrainingProgress)

    @property
    def eval_network(self) -> nn.Module:
        """The network that is measured and saved: the weight average if the recipe keeps one."""
        return self.average.network if self.average else self.network

    def saved(self, runtime: Runtime) -> dict[str, Any]:
        """The content of the resume file: tensors, numbers and strings (``weights_only=True`` reads it)."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict() if self.average else None,
            "optimiser": self.optimiser.state_dict(),
            "progress": vars(self.progress),
            "world": runtime.world,
            "threads": torch.get_num_threads(),
        }

    def restore(self, saved: dict[str, Any], runtime: Runtime) -> tuple[str, ...]:
        """Load the state of an interrupted run; returns notes on what differs from that run.

        Raises:
            KeyError, ValueError, TypeError, RuntimeError: the saved state does not fit this run.
        """
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.average is not None:
            self.average.network.load_state_dict(saved["average"])
        self.progress = TypeAdapter(TrainingProgress).validate_python(saved["progress"])
        notes: list[str] = []
        before, now = saved.get("world", 1), runtime.world
        if before != now:
            notes.append(
                f"trained on {before} process{'es' * (before > 1)} so far, now on {now}: the batches stay "
                "the same, but the noise of the attacks and unsynchronised BatchNorm statistics differ"
            )
        threads, threads_now = saved.get("threads"), torch.get_num_threads()
        if runtime.device.type == "cpu" and threads not in (None, threads_now):
            notes.append(
                f"trained on {threads} thread{'s' * (threads > 1)} so far, now on {threads_now}: sums round "
                "differently, so the result will not be identical bit for bit"
            )
        return tuple(notes)
