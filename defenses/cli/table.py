"""``defenses table``: show runs as a table of the AWP paper, next to the published values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def table(
    number: Annotated[str, typer.Argument(help="1, 2, 3, 4 or 5, as in the AWP paper.")],
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, or folders that contain some; for table 2 result.json files instead."
        ),
    ],
    replicate: Annotated[
        bool,
        typer.Option("--replicate", help="Best as in the paper: maxima over epochs on the test set."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write OUT.md and OUT.json.")] = None,
) -> None:
    """Show runs as a table of the AWP paper, next to the published values.

    Cells show mean and standard deviation over seeds. Table 2 uses the results of robust-eval run --suite
    full; the other tables use the learning curves.
    """
    from defenses.reports.tables import entries, layout, published, rendering
    from defenses.runs.reading import find_runs
    from robust_eval.core.errors import UserError
    from robust_eval.core.figure_style import json_text, with_ending
    from robust_eval.core.files import write_text

    paper_table = published.read(number)
    if number == "2" and replicate:
        raise UserError("--replicate applies to learning curves, which table 2 does not use: leave it out.")
    found = (
        [entries.from_result(path) for path in entries.results_below(runs)]
        if number == "2"
        else [entries.from_run(number, run, replicate=replicate) for run in find_runs(runs)]
    )
    left_out = [entry for entry in found if isinstance(entry, str)]
    used = [entry for entry in found if not isinstance(entry, str)]
    filled = layout.lay_out(paper_table, used, left_out, replicate=replicate)
    text = rendering.markdown(filled)
    if out is not None:
        write_text(with_ending(out, "md"), text)
        write_text(with_ending(out, "json"), json_text(rendering.data(filled)))
    typer.echo(text, nl=False)
    if out is not None:
        typer.echo(f"\nWritten: {with_ending(out, 'md')}, {with_ending(out, 'json')}")
