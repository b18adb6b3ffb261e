"""``robust-eval selftest``: evaluate models with planted defects and report which were detected."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from robust_eval.verification.selftest import Case, CaseOutcome


def selftest(
    only: Annotated[
        str | None,
        typer.Option(
            help="Run one group: numbers, record, model, 'closed form', loading, attack, run, defense, "
            "deception, diagnosis, unmodified."
        ),
    ] = None,
) -> None:
    """Test the evaluator on models, attacks and results with known defects; takes one to two minutes.

    Exits with 1 if a defect is missed, or an unmodified model is flagged.
    """
    import torch

    from robust_eval.core import terminal
    from robust_eval.core.text import count_of
    from robust_eval.verification.selftest import cases, run_cases

    console, chosen = terminal.console(), _choose(cases(), only)
    # The networks are so small that several threads are slower than one.
    torch.set_num_threads(1)
    sizes = Counter(case.group for case in chosen)
    with console.status("") as status:

        def begin(case: Case) -> None:
            status.update(f"{case.group}: {case.name}")
            size = sizes.pop(case.group, 0)
            if size and not console.is_terminal:
                console.print(f"{case.group}: {count_of(size, 'case')}", highlight=False)

        outcomes = list(run_cases(chosen, begin))
    console.print(table(outcomes))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    seconds = sum(outcome.seconds for outcome in outcomes)
    console.print(f"{len(outcomes) - len(failed)} of {len(outcomes)} as expected, in {seconds:.0f} s.")
    if failed:
        raise typer.Exit(1)


def _choose(cases: Sequence[Case], group: str | None) -> list[Case]:
    from robust_eval.core.errors import unknown

    groups = {case.group for case in cases}
    if group is not None and group not in groups:
        raise unknown("group", group, groups)
    return [case for case in cases if group in (None, case.group)]


def table(outcomes: Sequence[CaseOutcome]) -> Table:
    """One row per case: the planted defect, the expected flags, the flags raised, and the verdict."""
    from rich.table import Table

    found = Table(title="Planted defects and the flags raised", title_justify="left", pad_edge=False)
    found.add_column("planted")
    # Flag ids are not wrapped, so that they can be searched for.
    for header in ("expected", "raised", ""):
        found.add_column(header, no_wrap=True)
    group = ""
    for outcome in outcomes:
        case = outcome.case
        if case.group != group:
            found.add_section()
            found.add_row(f"[bold]{case.group}[/bold]")
            group = case.group
        verdict = "[green]ok[/green]" if outcome.passed else "[red]missed[/red]"
        if outcome.false_alarms:
            verdict = "[red]false alarm[/red]"
        same = outcome.found == case.expected
        raised = "[dim]as expected[/dim]" if same else _lines(outcome.found)
        found.add_row(case.name, _lines(case.expected), raised, verdict)
    return found


def _lines(names: frozenset[str]) -> str:
    return "\n".join(sorted(names)) or "[dim]none[/dim]"
