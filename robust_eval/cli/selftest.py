"""``robust-eval selftest``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from robust_eval.verification.selftest import Case, Outcome


def selftest(
    only: Annotated[
        str | None,
        typer.Option(
            help="One group: numbers, record, model, 'closed form', attack, run, diagnosis, honest."
        ),
    ] = None,
) -> None:
    """Run the evaluator against planted lies and closed forms on this machine; about a minute.

    Exits with 1 if a lie was not flagged, or an honest model was.
    """
    import torch

    from robust_eval.core import terminal
    from robust_eval.core.text import count_of
    from robust_eval.verification import selftest as tests

    console, chosen = terminal.console(), _chosen(tests.cases(), only)
    # Tiny networks: threads would wait for each other longer than they work.
    torch.set_num_threads(1)
    sizes = Counter(case.group for case in chosen)
    with console.status("") as status:

        def begin(case: Case) -> None:
            status.update(f"{case.group}: {case.name}")
            size = sizes.pop(case.group, 0)
            if size and not console.is_terminal:
                console.print(f"{case.group}: {count_of(size, 'case')}", highlight=False)

        outcomes = list(tests.outcomes(chosen, begin))
    console.print(table(outcomes))
    bad = [outcome for outcome in outcomes if not outcome.ok]
    seconds = sum(outcome.seconds for outcome in outcomes)
    console.print(f"{len(outcomes) - len(bad)} of {len(outcomes)} as expected, in {seconds:.0f} s.")
    if bad:
        raise typer.Exit(1)


def _chosen(cases: Sequence[Case], group: str | None) -> list[Case]:
    from robust_eval.core.errors import unknown

    groups = {case.group for case in cases}
    if group is not None and group not in groups:
        raise unknown("group", group, groups)
    return [case for case in cases if group in (None, case.group)]


def table(outcomes: Sequence[Outcome]) -> Table:
    """What was planted, what must be said about it, and what was."""
    from rich.table import Table

    found = Table(title="What was planted, and what was caught", title_justify="left", pad_edge=False)
    found.add_column("planted")
    # An id is never broken: it is what one searches for.
    for header in ("expected", "found", ""):
        found.add_column(header, no_wrap=True)
    group = ""
    for outcome in outcomes:
        case = outcome.case
        if case.group != group:
            found.add_section()
            found.add_row(f"[bold]{case.group}[/bold]")
            group = case.group
        verdict = "[green]ok[/green]" if outcome.ok else "[red]missed[/red]"
        if outcome.false_alarms:
            verdict = "[red]false alarm[/red]"
        same = outcome.found == case.expected
        names = "[dim]the same[/dim]" if same else _names(outcome.found)
        found.add_row(case.name, _names(case.expected), names, verdict)
    return found


def _names(names: frozenset[str]) -> str:
    return "\n".join(sorted(names)) or "[dim]nothing[/dim]"
