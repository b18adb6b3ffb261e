"""Argument types of the benchmark commands, and the handling of user errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from robust_eval.core.errors import UserError
from robust_eval.core.files import refuse_unwritable, report_write_errors
from robust_eval.core.threat import parse_threat


def guarded(work: Callable[[], None]) -> None:
    """Run a command; a UserError is printed as one line, with exit code 2."""
    try:
        work()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def counts(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    return [count(part.strip()) for part in text.split(",")]


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def device(text: str) -> str:
    """An available device. ``cpu`` is accepted without importing torch."""
    if text != "cpu":
        from robust_eval.core.devices import pick_device

        try:
            return str(pick_device(text))
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def epsilon(text: str) -> str:
    """An Linf epsilon for pixels in [0, 1]."""
    try:
        parse_threat("Linf", text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def file(text: str) -> Path:
    """An existing file."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def folder(path: Path) -> Path:
    """Create the folder if necessary. Raises :class:`UserError` if it cannot be written to."""
    with report_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    refuse_unwritable(path)
    return path


def last_line(text: str) -> str:
    """The last line of a child process's output, without the prefix ``Error:``."""
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else "No reason given."
