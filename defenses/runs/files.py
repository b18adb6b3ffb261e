"""Names of files in a run folder, the check that it can be written, and reserved disk space."""

from __future__ import annotations

import os
from pathlib import Path

from robust_eval.core.errors import UserError

# In a run's folder
RECORD = "run.json"
CURVE = "curve.csv"
"""The last that an epoch writes before its state."""


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The folder {path} cannot be written ({error.strerror}): choose another one with --out."
        ) from None


class Reserve:
    """Disk space set aside at the start, so that a run on a full disk can still save its last state."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self, size: int) -> None:
        """Keep ``size`` bytes; where even that does not fit, there is no reserve."""
        if self._path.exists() and self._path.stat().st_size >= size:
            return
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except (OSError, AttributeError):
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
