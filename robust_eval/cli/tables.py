"""Results and plans as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from robust_eval.core.text import duration
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.planning.cost import Estimate
from robust_eval.results import RESULT_FILE, Count, EvalResult, FlagRecord, checkpoint_claims
from robust_eval.results.corruptions import corruption_errors
from robust_eval.results.schema import EVIDENCE_FILE


def percent(count: Count) -> str:
    return f"{100 * count.accuracy:.2f}"


def interval(count: Count) -> str:
    low, high = count.ci95
    return f"{100 * low:.1f} - {100 * high:.1f}"


def result_table(result: EvalResult) -> Table:
    """One line per column, the worst case last. Accuracies in percent, 95% Wilson intervals."""
    threat = f"{result.threat.norm} {result.threat.eps}"
    name = checkpoint_claims.distinct_name(result.checkpoint)
    title = f"{escape(name)} on {escape(result.data.name)}, {threat}, n = {result.data.n}"
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("attack")
    for header in ("accuracy %", "95% interval", "robust", "time"):
        table.add_column(header, justify="right")
    for column in result.columns.values():
        robust = f"{column.n_robust}/{column.n}"
        table.add_row(column.title, percent(column), interval(column), robust, duration(column.seconds))
    for name in result.missing:
        table.add_row(f"[dim]{name}[/dim]", "[dim]not finished[/dim]", "", "", "")
    worst = result.worst_case
    table.add_section()
    table.add_row(
        "[bold]worst case[/bold]",
        f"[bold]{percent(worst)}[/bold]",
        interval(worst),
        f"{worst.n_robust}/{worst.n}",
        duration(worst.seconds),
    )
    return table


def print_flags(console: Console, flags: Sequence[FlagRecord]) -> None:
    for flag in flags:
        colour = "red" if flag.severity == "blocks ranking" else "yellow"
        head = f"[{colour}]{flag.severity}[/{colour}]: [bold]{flag.id}[/bold]"
        console.print(f"{head}: {escape(flag.figure)}. {flag.advice}")
    if not flags:
        console.print("No flags.")


def print_result(console: Console, result: EvalResult) -> None:
    console.print(result_table(result))
    if (errors := corruption_errors(result)) is not None:
        each = errors.by_corruption if errors.relative is None else errors.relative
        title = "mean error" if errors.relative is None else "mean error relative to AlexNet's"
        listed = ", ".join(f"{name} {100 * error:.1f}" for name, error in each.items())
        console.print(f"mCE {100 * errors.mce:.2f}% ({title}): {listed}.", highlight=False)
        if errors.relative is not None:
            console.print(f"Mean error without AlexNet: {100 * errors.mean:.2f}%.", highlight=False)
    if result.search is not None and (lost := result.search.disagreement) is not None:
        console.print(
            f"{result.suite.precision} search, beside float32 on {lost.images} images: of {lost.verdicts} "
            f"verdicts {lost.weaker} broken by float32 alone, {lost.stronger} by the other alone.",
            highlight=False,
        )
    if result.seconds:
        parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in result.seconds.items())
        console.print(f"Beside the attacks: {parts}.", highlight=False)
    print_flags(console, result.flags)
    if result.status == "partial":
        console.print(f"[yellow]Partial[/yellow]: still to do: {', '.join(result.missing)}. Never ranked.")


def written_text(run: Run) -> str:
    """The files that a finished run has written."""
    if run.spec.shard is not None:
        return f"shard in {run.folder}"
    assert run.folder is not None
    return f"{run.folder / RESULT_FILE}, {run.folder / EVIDENCE_FILE}"


def estimate_table(rows: Iterable[Estimate]) -> Table:
    table = Table(
        title="Planned work (upper bound: nothing breaks early)", title_justify="left", pad_edge=False
    )
    table.add_column("column")
    table.add_column("attack")
    for header in ("units", "forwards/image", "backwards/image", "time at most"):
        table.add_column(header, justify="right")
    total = 0.0
    for row in rows:
        total += row.seconds
        table.add_row(
            row.column,
            row.attack,
            str(row.units),
            f"{row.cost.forwards:,}",
            f"{row.cost.backwards:,}",
            duration(row.seconds),
        )
    table.add_section()
    table.add_row("total", "", "", "", "", duration(total))
    return table
