"""What the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robust_eval.results import EvalResult

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
