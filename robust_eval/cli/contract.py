"""``robust-eval contract``: check an attack of the user against the contract of attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_eval.core.errors import UserError


def contract(
    attack: Annotated[str, typer.Argument(help="A Python file, or the name of an installed attack.")],
) -> None:
    """Check that an attack can be used in a suite: its interface, images, seed and declared cost.

    The code of the file runs. Exits with 1 if a check fails.
    """
    import torch

    from robust_eval import attacks
    from robust_eval.core import terminal
    from robust_eval.core.text import count_of
    from robust_eval.core.torch_state import standard_state
    from robust_eval.evaluation import attack_contract

    if attack.endswith(".toml"):
        raise UserError(
            f"{attack} is a column, suite or recipe. Give the attack itself: FILE.py, or a family."
        )
    torch.set_num_threads(1)
    console = terminal.console()
    with standard_state():
        family = attacks.add(Path(attack).expanduser()) if attack.endswith(".py") else attack
        attacks.family(family)  # an unknown one is an error, not an outcome
        outcomes = list(attack_contract.outcomes(family))
    for outcome in outcomes:
        result = f"failed: {outcome.problem}" if outcome.problem else "passed"
        console.print(f"{outcome.check:18} {result}", highlight=False, markup=False)
    failed, total = sum(bool(outcome.problem) for outcome in outcomes), count_of(len(outcomes), "check")
    library = attacks.library(family)
    console.print(f"{library}: {len(outcomes) - failed} of {total} passed.", highlight=False, markup=False)
    if failed:
        raise typer.Exit(1)
