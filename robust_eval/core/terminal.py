"""What the commands of both packages share: the console, standard streams, signals and exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import IO, NoReturn

from rich.console import Console
from rich.markup import escape

from robust_eval.core import memory, signals
from robust_eval.core.errors import UserError
from robust_eval.core.text import printable

_UNBROKEN = 10_000
_READER_GONE = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has ended, or the terminal was closed."""


def console() -> Console:
    """A console as wide as the terminal; in files and pipes no line is wrapped unless ``COLUMNS`` is set."""
    unlimited = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    # Without emoji: ":Five:" in a name is no picture.
    return Console(width=_UNBROKEN if unlimited else None, emoji=False)


def run_command(command: Callable[[], object]) -> NoReturn:
    """Run a command line and exit.

    A :class:`UserError` is printed on stderr as one message, with exit code 2. After a signal the exit code
    is 128 and its number. The work goes on if nobody reads the output any more; if it cannot be written for
    another reason, the exit code is 2.
    """
    if _is_busy():
        # Spinning OpenMP threads make small networks many times slower on cores that others use.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_closed_streams()
    output = _lasting_output()
    code: str | int | None = 0
    try:
        with signals.handled(signals.interrupt):
            code = _exit_code(command)
            sys.stdout.flush()
    except KeyboardInterrupt:  # a second signal, while the first was handled
        code = signals.exit_code()
    lost = None if output is None else output.lost
    if lost is not None and lost.errno not in _READER_GONE and not code:
        _print_error(f"The output could not be written ({lost.strerror}).")
        code = 2
    sys.exit(code)


def _is_busy() -> bool:
    """Whether other processes used half of the machine's cores during the last minute."""
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1) / 2
    except (AttributeError, OSError):
        return False


def _exit_code(command: Callable[[], object]) -> str | int | None:
    try:
        command()
    except UserError as error:
        _print_error(str(error))
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not memory.is_lack(error):
            raise
        _print_error("This needs more memory than is free. Close other programs, or use smaller batches.")
        return UserError.exit_code
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        # A name may be looked for, as data or a checkpoint, before anything is opened.
        _print_error(f"{printable(str(error.filename), 60)} is too long for the name of a file.")
        return UserError.exit_code
    except SystemExit as stop:
        unsaid = isinstance(getattr(stop.__context__, "__cause__", None), KeyboardInterrupt)
        if not unsaid:
            return stop.code
    except KeyboardInterrupt:
        pass
    else:
        return 0
    _print("Interrupted. Finished work is kept: run the same command again.")
    return signals.exit_code()


def _print_error(text: str) -> None:
    _print(f"[red]Error:[/red] {escape(printable(text, 2000))}")


def _print(markup: str) -> None:
    Console(stderr=True, emoji=False).print(markup, soft_wrap=True, highlight=False)


class _LastingOutput(io.FileIO):
    """A standard stream that discards what can no longer be written."""

    lost: OSError | None = None

    def write(self, data: object) -> int:
        if self.lost is None:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes  # type: ignore[arg-type]


def _open_closed_streams() -> None:
    """Open the null device for standard streams that are closed, so that no other file takes their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or _null()
    sys.stderr = sys.stderr or _null()


def _null() -> IO[str]:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 (open until the process ends)


def _lasting_output() -> _LastingOutput | None:
    """Replace stdout and stderr of the process; returns stdout, or None if it was replaced by the caller.

    On Windows they stay as they are: its consoles have streams of their own.
    """
    raw = None
    for name in ("stderr", "stdout"):
        stream = getattr(sys, name)
        raw = None
        if os.name == "nt" or stream is not getattr(sys, f"__{name}__") or stream.closed:
            continue
        stream.flush()
        raw = _LastingOutput(stream.fileno(), "w", closefd=False)
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(raw),
                stream.encoding,
                "replace" if stream.errors == "strict" else stream.errors,
                line_buffering=stream.line_buffering,
                write_through=name == "stderr",
            ),
        )
    return raw
