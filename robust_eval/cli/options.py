"""EvaluationOptions that several commands take, said in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robust_eval.results import EvalResult

Checkpoint = Annotated[str, typer.Argument(help="A checkpoint file, or robustbench:MODEL_ID.")]
Checkpoints = Annotated[
    list[str],
    typer.Argument(help="Checkpoint files, or robustbench:MODEL_ID.", show_default=False),
]
Data = Annotated[
    str | None, typer.Option(help="digits, mnist, cifar10, cifar100, svhn, folder:DIR or npz:FILE.")
]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that holds the datasets.")]
Norm = Annotated[str | None, typer.Option(help="Linf or L2.")]
Eps = Annotated[str | None, typer.Option(help="Budget in [0, 1] pixels, for example 8/255.")]
Arch = Annotated[str | None, typer.Option(help="Architecture id, or path.py:function.")]
Normalisation = Annotated[
    str | None, typer.Option(help="Input normalisation, where detection is not wanted.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the search alone; the judge is always float32: float32, bfloat16, or auto (bfloat16 where "
        "the device has units for it)."
    ),
]
Compile = Annotated[
    str, typer.Option(help="torch.compile for the search: auto (where the work repays it), on or off.")
]
DIAGNOSE = (
    "Run the convergence diagnosis: on each of 100 examples up to 390 forward and 280 backward passes, then one "
    "fresh process. The time is printed first."
)
Diagnose = Annotated[bool, typer.Option("--diagnose", help=DIAGNOSE)]

ResultFile = Annotated[Path, typer.Argument(help="A result.json.", show_default=False)]


def read_honest(path: Path) -> EvalResult:
    """A result whose numbers agree with each other. A UserError for any other."""
    from robust_eval.core.errors import UserError
    from robust_eval.results import read_result
    from robust_eval.results.consistency import contradictions

    result = read_result(path)
    found = contradictions(result)
    if found:
        raise UserError(f"{path} contradicts itself: {found[0]}. It was edited or damaged.")
    return result
