"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from robust_eval.results import EvalResult

Sources = TypeVar("Sources", str, list[str])


def recognised(sources: Sources) -> Sources:
    """Checkpoints whose first bytes are those of one; others are refused before torch is imported."""
    from robust_eval.models.loading import file_head

    for source in [sources] if isinstance(sources, str) else sources:
        file_head.check_source(source)
    return sources


Checkpoint = Annotated[
    str,
    typer.Argument(
        help="Checkpoint file, or timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or robustbench:MODEL_ID.",
        callback=recognised,
    ),
]
Checkpoints = Annotated[
    list[str],
    typer.Argument(
        help="Checkpoint files, or timm:NAME, torchvision:NAME, hf-hub:ORG/NAME or robustbench:MODEL_ID.",
        show_default=False,
        callback=recognised,
    ),
]
DIAGNOSE = (
    "Run the convergence diagnosis: on each of 100 examples up to 390 forward and 280 backward passes, then "
    "one fresh process. The time is printed first."
)
Diagnose = Annotated[bool, typer.Option("--diagnose", help=DIAGNOSE)]


def completed(result: Path) -> Path:
    """The result file, after completing an interrupted change of its run folder or board."""
    from robust_eval.core.folders import settle

    for folder in result.absolute().parents[:2]:
        settle(folder)
    return result


ResultFile = Annotated[
    Path, typer.Argument(help="A result.json file.", show_default=False, callback=completed)
]


def read_consistent_result(path: Path) -> EvalResult:
    """Read a result and check that its numbers agree with each other, and its columns with its suite.

    Raises:
        UserError: if they do not, or the file is not a result.
    """
    from robust_eval.core.errors import UserError
    from robust_eval.evaluation.planning.recorded_suite import identify
    from robust_eval.results import read_result
    from robust_eval.results.consistency import contradictions

    result = read_result(path)
    found = contradictions(result)
    if found:
        raise UserError(f"{path} contradicts itself: {found[0]}. It was edited or damaged.")
    if problem := identify(result).problem:
        raise UserError(f"{path} {problem}. It was edited, or made with another suite of that name.")
    return result
