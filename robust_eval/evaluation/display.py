"""TODO."""

from __future__ import annotations

from typing import Protocol

from robust_eval.core.types import Column, UnitResult, WorkUnit


class Silent:
    """For calls from code."""

    def stage(self, column: Column, stage: int, n_attacked: int) -> None: ...

    def unit(self, unit: WorkUnit, result: UnitResult, *, stored: bool) -> None: ...

    def say(self, text: str) -> None: ...


class Display(Protocol):
    """Who is told. Called in the order of the work; must not fail."""

    def stage(self, column: Column, stage: int, n_attacked: int) -> None: ...
    def unit(self, unit: WorkUnit, result: UnitResult, *, stored: bool) -> None: ...
    def say(self, text: str) -> None: ...
