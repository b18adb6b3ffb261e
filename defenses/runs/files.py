"""The run folder: names of its files, creating it, and reserved disk space."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from robust_eval.core.errors import UserError
from robust_eval.core.files import create_folder, open_new

RECORD = "run.json"
CURVE = "curve.csv"
"""Written at the end of an epoch, after its checkpoints and before the resume file."""


def make_folder(path: Path) -> None:
    """Create the folder if necessary. Raises :class:`UserError` if it cannot be written to."""
    try:
        create_folder(path)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"The folder {path} cannot be written ({error.strerror}): choose another one with --out."
        ) from None


class Reserve:
    """A file that reserves disk space, so that the state of a run can still be saved when the disk is full.

    It is as large as the resume file, and is deleted if writing fails or the run ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self, size: int) -> None:
        """Reserve ``size`` bytes; without enough space, or on systems that cannot, reserve nothing."""
        if self._path.exists() and not self._path.is_symlink() and self._path.stat().st_size >= size:
            return
        try:
            with open_new(self._path) as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except (OSError, AttributeError):
            self.release()

    def release(self) -> None:
        """Free the reserved space. An error is ignored: the next run in the folder uses the file again."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
