"""Store the results of units, in a run folder or in memory.

A unit is done if and only if its file exists. It is written to a temporary file, flushed to disk and renamed,
so that a kill at any moment leaves a complete unit or none; the next command removes the temporary file. A
damaged file counts as absent, and the unit is repeated.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robust_eval.core import strict_arrays, strict_json
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
from robust_eval.core.text import printable
from robust_eval.core.types import CallDifference, UnitResult, Verdicts
from robust_eval.core.versions import written_by

REQUEST_FILE = "request.json"
UNITS = "units"
FORMAT = 2
"""Format of requests and units. Format 1 names neither the format nor the version of robust-eval."""
_LARGEST_UNIT = 4 * 2**30
_VERDICT_TYPES = {**dict.fromkeys(("indices", "labels", "adv_pred"), "int64"), "distance": "float64"}
_IMAGES: dict[str, np.ndarray[Any, Any]] = {
    "evidence": np.empty(0, dtype=np.float32),
    "survivors": np.empty(0, dtype=np.int64),
    "survivor_images": np.empty(0, dtype=np.float32),
}
"""Arrays that are read only if they are needed, empty."""
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
        format=np.array(FORMAT),
        written_by=np.array(written_by()),
        key=np.array(key),
        evidence=result.evidence,
        passes=np.array([result.forwards, result.backwards]),
        seconds=np.array(result.seconds),
        survivors=result.survivors,
        survivor_images=result.survivor_images,
        difference=np.array(astuple(result.difference)),
        **arrays,
    )
    return file.getvalue()


def unpack_unit(key: str, source: Path | bytes, *, images: bool = True) -> UnitResult | None:
    """A unit from its file or the file's content.

    None if it is absent, damaged, another unit's, of a newer format or of the time before format 1, when
    arrays had other types.
    """
    try:
        with strict_arrays.opened_npz(source, _LARGEST_UNIT, f"unit {key}") as arrays:
            known = "format" not in arrays.names or arrays.read("format").tolist() in range(1, FORMAT + 1)
            if not known or arrays.read("key").tolist() != key:
                return None
            verdicts = Verdicts(**{name: arrays.read(name) for name in _VERDICT_FIELDS})
            passes, seconds = arrays.read("passes"), arrays.read("seconds")
            difference = arrays.read("difference") if "difference" in arrays.names else np.array([0.0, 1.0])
            stored = {name: arrays.read(name) for name in _IMAGES if images and name in arrays.names}
    except UserError:
        return None
    n = len(verdicts.indices) if verdicts.indices.ndim == 1 else -1
    types = {name: (array.dtype.name, array.shape) for name, array in vars(verdicts).items()}
    if types != {name: (_VERDICT_TYPES.get(name, "bool"), (n,)) for name in _VERDICT_FIELDS}:
        return None
    # Units of earlier versions have no images of robust examples.
    evidence, kept, kept_images = (stored.get(name, empty) for name, empty in _IMAGES.items())
    shapes = passes.shape == (2,) and seconds.shape == () and evidence.ndim in (1, 4) and len(evidence) <= n
    shapes = shapes and difference.shape in ((2,), (3,)) and difference.dtype == np.float64
    shapes = shapes and kept.ndim == 1 and kept_images.ndim in (1, 4) and len(kept) == len(kept_images) <= n
    if not shapes or passes.dtype.kind != "i" or seconds.dtype.kind != "f":
        return None
    if any(array.dtype != _IMAGES[name].dtype for name, array in stored.items()):
        return None
    forwards, backwards = (int(count) for count in passes)
    apart = CallDifference(*difference.tolist())
    return UnitResult(verdicts, evidence, forwards, backwards, float(seconds), kept, kept_images, apart)


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
        UserError: if the folder belongs to another request (the message names what differs), or was begun by
            a newer version in a format that this one does not know.
    """
    _refuse_other_files(folder)
    request_file = folder / REQUEST_FILE
    wanted = json.loads(json.dumps(identity, default=str))
    with report_write_errors(folder):
        create_folder(folder)
    if not request_file.exists():
        content = {"format": FORMAT, "written_by": written_by(), "request": wanted}
        write_text(request_file, json.dumps(content, indent=1) + "\n")
    found, author = _read_request(request_file)
    if found != wanted:
        differing = ", ".join(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
        raise UserError(
            f"{folder} contains a run of another request (it differs in: {differing}){author}. "
            "Choose another run folder, or repeat the original request to continue it."
        )
    # After the request: a folder without a request may contain nothing else.
    with report_write_errors(folder):
        create_folder(folder / UNITS)
    sweep(folder / UNITS)
    return FolderStore(folder)


def _read_request(path: Path) -> tuple[dict[str, Any], str]:
    """The identity of a stored request, and by which version it was written if that is not this one."""
    try:
        found = strict_json.read(path)
    except UserError as error:
        raise UserError(f"{path.parent} cannot be continued: {error} Choose another run folder.") from None
    # Format 1 was the identity alone.
    if isinstance(found, dict) and found.keys() != {"format", "written_by", "request"}:
        found = {"format": 1, "written_by": "", "request": found}
    if not isinstance(found, dict) or not isinstance(found["request"], dict):
        raise UserError(f"{path} is not a request, so {path.parent} cannot be continued. Choose another one.")
    author = printable(str(found["written_by"]), 40)
    if found["format"] not in range(1, FORMAT + 1):
        raise UserError(
            f"{path.parent} was begun by {author} in a format that this version does not read. Upgrade, or "
            "choose another run folder."
        )
    begun = "" if author in ("", written_by()) else f" and was begun by {author}"
    return found["request"], begun


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder for one process. The lock is released when the process ends for any reason."""
    _refuse_other_files(folder)
    with lock_folder(folder):
        yield
