"""A home folder for ART, which writes its configuration there when it is imported."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robust_eval.core.errors import UserError

_VARIABLES = ("HOME", "USERPROFILE")


@contextmanager
def writable_home() -> Iterator[None]:
    """Import ART inside: with the user's home folder if ART can use it, otherwise with a temporary one.

    Raises :class:`UserError` if there is neither.
    """
    if _usable("~/.art"):
        yield
        return
    before = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.update(dict.fromkeys(_VARIABLES, folder))
            yield
    except OSError as error:
        raise UserError(
            f"ART, the library of the attacks, needs a folder to write to ({error.strerror or error}): set "
            "HOME or TMPDIR to one."
        ) from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _usable(name: str) -> bool:
    try:
        folder = Path(name).expanduser()
        if (folder / "config.json").is_file() and (folder / "data").is_dir():
            return True
        (folder / "data").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except (OSError, RuntimeError):  # RuntimeError: no home folder is known
        return False
    return True
