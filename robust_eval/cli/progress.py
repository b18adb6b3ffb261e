"""What a run shows while it works: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from robust_eval.core.request import CLEAN
from robust_eval.core.types import Column, Suite, UnitResult, WorkUnit


@dataclass
class Row:
    """One attack of one column as it goes."""

    column: str
    attack: str
    attacked: int
    done: int = 0
    broken: int = 0
    seconds: float = 0.0
    timed: int = 0
    """Examples done in this session: only these tell how fast it goes."""

    def eta(self) -> float | None:
        """Seconds still to go, once a unit has been timed."""
        if self.done == self.attacked:
            return 0.0
        return (self.attacked - self.done) * self.seconds / self.timed if self.timed else None


class Progress:
    """Keeps the rows; subclasses show them."""

    def __init__(self, n: int, console: Console) -> None:
        self.n = n
        self._console = console
        self.rows: list[Row] = []

    def stage(self, column: Column, stage: int, n_attacked: int) -> None:
        attack = column.attacks[stage].id if column.attacks else CLEAN
        self.rows.append(Row(column.id, attack, n_attacked))
        self.show()

    def unit(self, unit: WorkUnit, result: UnitResult, *, stored: bool) -> None:
        row = self.rows[-1]
        row.done += len(unit.indices)
        row.broken += int((~result.verdicts.robust).sum())
        if not stored:
            row.seconds += result.seconds
            row.timed += len(unit.indices)
        self.show()

    def say(self, text: str) -> None:
        """A line of its own, above a table."""
        self._console.print(escape(text), soft_wrap=True, highlight=False)

    def robust(self, row: Row) -> float:
        """Robust accuracy so far: what is left of all examples if the rest holds."""
        return (row.attacked - row.broken) / self.n

    def show(self) -> None: ...


class Plain(Progress):
    """A line per finished attack, and one every half minute in between."""

    EVERY = 30.0

    def __init__(self, n: int, console: Console) -> None:
        super().__init__(n, console)
        self._last = time.monotonic()

    def show(self) -> None:
        if not self.rows:
            return
        row, now = self.rows[-1], time.monotonic()
        if row.done < row.attacked and (row.done == 0 or now - self._last < self.EVERY):
            return
        self._last = now
        eta = row.eta()
        rest = "" if not eta else f", about {duration(eta)} to go"
        label = row.column if row.column == row.attack else f"{row.column}/{row.attack}"
        self._console.print(
            f"{label}: {row.done}/{row.attacked} done, {row.broken} broken, "
            f"robust accuracy {100 * self.robust(row):.2f}%{rest}",
            soft_wrap=True,
            highlight=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LiveTable(Progress):
    """A table that redraws itself."""

    def __init__(self, n: int, suite: Suite, console: Console) -> None:
        super().__init__(n, console)
        self._waiting = [column for column in suite.columns if column.id != CLEAN]
        self._live = Live(console=console, refresh_per_second=4)

    def show(self) -> None:
        table = Table(box=None, pad_edge=False)
        for header in ("attack", "done", "broken", "robust accuracy", "left"):
            table.add_column(header, justify="left" if header == "attack" else "right")
        started = {row.column for row in self.rows}
        for row in self.rows:
            eta = row.eta()
            table.add_row(
                row.column if row.column == row.attack else f"{row.column} [dim]{row.attack}[/dim]",
                f"{row.done}/{row.attacked}",
                str(row.broken),
                f"{100 * self.robust(row):.2f}%",
                "" if eta == 0.0 else "..." if eta is None else duration(eta),
            )
        for column in self._waiting:
            if column.id not in started:
                table.add_row(f"[dim]{column.id}[/dim]", "", "", "", "[dim]waiting[/dim]")
        self._live.update(table)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def display(n: int, suite: Suite, console: Console) -> Plain | LiveTable:
    return LiveTable(n, suite, console) if console.is_terminal else Plain(n, console)
