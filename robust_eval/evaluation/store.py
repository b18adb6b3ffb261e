"""Store the results of units, in a run folder or in memory.

A unit is done if and only if its file exists. It is written to a temporary file, flushed to disk and renamed,
so that a kill at any moment leaves a complete unit or none; the next command removes the temporary file. A
damaged file counts as absent, and the unit is repeated.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robust_eval.core.errors import UserError
from robust_eval.core.files import (
    atomic,
    create_folder,
    is_temporary,
    refuse_unwritable,
    report_write_errors,
    sweep,
    write_text,
)
from robust_eval.core.folders import LOCK_FILE, STAGED, lock_folder
from robust_eval.core.types import UnitResult, Verdicts

REQUEST_FILE = "request.json"
UNITS = "units"
_VERDICT_FIELDS = tuple(field.name for field in fields(Verdicts))


class Store(Protocol):
    """The interface of a store of unit results, by unit key."""

    def get(self, key: str) -> UnitResult | None:
        """The unit's result; None if it is not stored."""

    def verdicts(self, key: str) -> UnitResult | None:
        """The same, possibly without the images."""

    def put(self, key: str, result: UnitResult | bytes) -> None:
        """Store a result, or the content of its file as :func:`pack_unit` gives it."""

    def __contains__(self, key: str) -> bool: ...


class MemoryStore:
    """Unit results in memory."""

    def __init__(self) -> None:
        self._units: dict[str, UnitResult] = {}

    def get(self, key: str) -> UnitResult | None:
        return self._units.get(key)

    verdicts = get

    def put(self, key: str, result: UnitResult | bytes) -> None:
        found = unpack_unit(key, result) if isinstance(result, bytes) else result
        if found is not None:
            self._units[key] = found

    def __contains__(self, key: str) -> bool:
        return key in self._units


class FolderStore:
    """The units of a run folder, ``units/<key>.npz``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._units = folder / UNITS

    def path(self, key: str) -> Path:
        return self._units / f"{key}.npz"

    def get(self, key: str) -> UnitResult | None:
        return unpack_unit(key, self.path(key))

    def verdicts(self, key: str) -> UnitResult | None:
        """The unit without its images, which are not read."""
        return unpack_unit(key, self.path(key), images=False)

    def put(self, key: str, result: UnitResult | bytes) -> None:
        content = result if isinstance(result, bytes) else pack_unit(key, result)
        with report_write_errors(self.folder), atomic(self.path(key)) as file:
            file.write(content)

    def __contains__(self, key: str) -> bool:
        return self.path(key).exists()


def pack_unit(key: str, result: UnitResult) -> bytes:
    """The content of a unit's file."""
    arrays = {name: getattr(result.verdicts, name) for name in _VERDICT_FIELDS}
    file = io.BytesIO()
    np.savez_compressed(
        file,
        key=np.array(key),
        evidence=result.evidence,
        passes=np.array([result.forwards, result.backwards]),
        seconds=np.array(result.seconds),
        survivors=result.survivors,
        survivor_images=result.survivor_images,
        **arrays,
    )
    return file.getvalue()


def unpack_unit(key: str, source: Path | bytes, *, images: bool = True) -> UnitResult | None:
    """A unit from its file or the file's content; None if it is absent, damaged or another unit's."""
    try:
        with np.load(
            io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False
        ) as arrays:
            if str(arrays["key"]) != key:
                return None
            verdicts = Verdicts(**{name: arrays[name] for name in _VERDICT_FIELDS})
            forwards, backwards = (int(n) for n in arrays["passes"])
            evidence = arrays["evidence"] if images else np.empty((0,), dtype=np.float32)
            result = UnitResult(verdicts, evidence, forwards, backwards, float(arrays["seconds"]))
            if images and "survivors" in arrays:
                # Units of earlier versions have none.
                kept = {name: arrays[name] for name in ("survivors", "survivor_images")}
                result = replace(result, **kept)
            return result
    except (OSError, zipfile.BadZipFile, EOFError, KeyError, ValueError, RuntimeError, zlib.error):
        # RuntimeError: the header asks for a password or an unknown compression.
        return None


def refuse_unusable_folder(folder: Path) -> None:
    """Raise UserError, before anything is loaded, if ``folder`` cannot be a run folder. Creates nothing."""
    _refuse_other_files(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with report_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        refuse_unwritable(folder)
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _refuse_other_files(folder: Path) -> None:
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    names = [name for name in found if not (is_temporary(name) or name.startswith((LOCK_FILE, STAGED)))]
    if names and REQUEST_FILE not in names:
        raise UserError(
            f"{folder} is not a run folder but contains other files ({min(names)}, ...). "
            "Choose a new or empty run folder."
        )


def open_run(folder: Path, identity: Mapping[str, Any]) -> FolderStore:
    """The store of a new or continued run folder.

    Raises:
        UserError: if the folder belongs to another request; the message names what differs.
    """
    _refuse_other_files(folder)
    request_file = folder / REQUEST_FILE
    wanted = json.loads(json.dumps(identity, default=str))
    with report_write_errors(folder):
        create_folder(folder)
    found = _read_request(request_file)
    if found is None:
        write_text(request_file, json.dumps(wanted, indent=1) + "\n")
    elif found != wanted:
        differing = ", ".join(name for name in wanted if found.get(name) != wanted[name]) or "format"
        raise UserError(
            f"{folder} contains a run of another request (it differs in: {differing}). "
            "Choose another run folder, or repeat the original request to continue it."
        )
    # After the request: a folder without a request may contain nothing else.
    with report_write_errors(folder):
        create_folder(folder / UNITS)
    sweep(folder / UNITS)
    return FolderStore(folder)


def _read_request(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(
            f"{path} is damaged, so {path.parent} cannot be continued. Choose another run folder."
        ) from None
    return found


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder for one process. The lock is released when the process ends for any reason."""
    _refuse_other_files(folder)
    with lock_folder(folder):
        yield
