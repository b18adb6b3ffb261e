"""The specification of a run: what is evaluated, and where the run is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robust_eval.core.checkpoint_names import distinct
from robust_eval.core.request import Request
from robust_eval.evaluation.executors import Source, shards
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import default_folder

FolderOf = Callable[[Request], Path | None]
"""The run folder of a request; None: the run is held in memory."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What is evaluated, and where the run is stored."""

    source: Source
    name: str
    """For messages."""
    folder: FolderOf
    command: str | None = None
    """The command that repeats the run, for its result."""
    shard: int | None = None
    """Only this shard of the examples, counted from 0."""
    diagnose: bool = False

    @property
    def path(self) -> str:
        """The checkpoint as the user gave it."""
        return self.source.checkpoint if isinstance(self.source, EvaluationOptions) else self.name


def make_run_spec(
    options: EvaluationOptions,
    out: Path | None = None,
    *,
    parent: bool = False,
    shard: int | None = None,
    diagnose: bool = False,
) -> RunSpec:
    """The run of one checkpoint under one suite, stored in a folder.

    ``out`` is the run folder, or with ``parent`` the folder that contains it; None: ``runs/`` with a name
    that follows from the request.
    """

    def folder(request: Request) -> Path:
        usual = default_folder(request, options.checkpoint)
        run = usual if out is None else out / usual.name if parent else out
        return run if shard is None else shards.folder(run, shard, request.shards)

    return RunSpec(
        source=options,
        name=distinct(options.checkpoint),
        folder=folder,
        command=options.command(),
        shard=shard,
        diagnose=diagnose,
    )
