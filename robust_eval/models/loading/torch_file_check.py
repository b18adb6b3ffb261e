"""Check a file of ``torch.save`` or ``pickle`` before it is read: what it describes must be what it holds."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader, BytesIO
from typing import IO, Any

from robust_eval.core import plain_values, strict_zip
from robust_eval.models.loading import other_formats, pickle_dry_run, stand_ins
from robust_eval.models.loading.pickle_calls import COPY_AGAIN, RefusedPickleError, Storage
from robust_eval.models.loading.pickle_dry_run import Described

MOST_UNPACKED = 20
"""A file may unpack to this multiple of its size, and its tensors may be that large as float32."""
_LARGEST_PICKLE = 2**30
# The format before torch 1.6 starts with this pickled number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_ENDIAN = "was written on a machine with another order of bytes"


@dataclass(frozen=True)
class Checked:
    """What a file describes, and where its values are."""

    value: Any
    """Inert values, in place of tensors and objects; no stand-ins."""
    ordinary: bool
    """Whether the weights-only reader of torch reads it."""
    foreign: tuple[str, ...]
    """Names of other programs that it imports."""
    top: str = ""
    """Of a zip file: the folder of the values."""
    positions: dict[str, int] = field(default_factory=dict)
    """Otherwise: the position of each storage in the file."""


def check(file: BufferedReader) -> Checked:
    """Refuse a file, in the zip format, in the one before torch 1.6 or a pickle, that should not be read.

    Raises:
        RefusedPickleError: the text is the predicate of a sentence about the file.
    """
    head = file.read(len(_LEGACY_MAGIC))
    file.seek(0)
    how = _check_zip if head.startswith(b"PK") else _check_legacy if head == _LEGACY_MAGIC else _check_plain
    described, where = how(file)
    try:
        value = described.value if described.ordinary else stand_ins.replaced(described.value)
        # Weights are converted to float32, which may double their size.
        total = sum(2 * one.bytes for one in stand_ins.tensors_in(value))
    except plain_values.UnboundedError as error:
        raise RefusedPickleError(str(error)) from None
    except RecursionError:
        raise RefusedPickleError(f"is nested more than {plain_values.MOST_LEVELS} levels deep") from None
    if total > MOST_UNPACKED * file.seek(0, 2) + 2**26:
        raise RefusedPickleError(f"describes values of more than {MOST_UNPACKED} times its size")
    return Checked(value, described.ordinary, described.foreign, **where)


@contextmanager
def opened_zip(file: BufferedReader) -> Iterator[strict_zip.Archive]:
    """The archive of a checkpoint. Raises like :func:`strict_zip.opened`."""
    with strict_zip.opened(file, file.seek(0, 2), ratio=MOST_UNPACKED, free=2**20) as archive:
        yield archive


@contextmanager
def values_of(file: BufferedReader, checked: Checked) -> Iterator[Callable[[Storage], bytearray]]:
    """The reader of the bytes of each storage in a file that :func:`check` accepted."""
    if not checked.top:

        def from_file(storage: Storage) -> bytearray:
            file.seek(checked.positions[storage.key])
            return bytearray(file.read(storage.bytes))

        yield from_file
        return
    with opened_zip(file) as archive:
        order = f"{checked.top}/byteorder"
        if order in archive.sizes and archive.read(order).decode() != sys.byteorder:
            raise RefusedPickleError(_ENDIAN)

        def from_archive(storage: Storage) -> bytearray:
            with archive.member(f"{checked.top}/data/{storage.key}", check=False) as member:
                return strict_zip.fill(member, storage.bytes)

        yield from_archive


def _check_zip(file: BufferedReader) -> tuple[Described, dict[str, Any]]:
    try:
        with opened_zip(file) as archive:
            names = list(archive.sizes)
            if other := other_formats.of_archive(names):
                raise RefusedPickleError(*other)
            # As torch does: the folder of the first member.
            top = names[0].partition("/")[0] if names else ""
            if f"{top}/data.pkl" not in names:
                raise RefusedPickleError(
                    "is a zip archive without a checkpoint at its top", "Unpack it first."
                )
            if archive.sizes[f"{top}/data.pkl"] > _LARGEST_PICKLE:
                raise RefusedPickleError("has too long a description of its content")
            # torch can be configured to omit the checksums.
            described = _followed(BytesIO(archive.read(f"{top}/data.pkl", check=False)))
            for key, storage in described.storages.items():
                if archive.sizes.get(f"{top}/data/{key}") != storage.bytes:
                    raise RefusedPickleError("does not contain the values that it describes", COPY_AGAIN)
    except strict_zip.UnusableZipError as error:
        raise RefusedPickleError(str(error), COPY_AGAIN) from None
    return described, {"top": top}


def _check_legacy(file: BufferedReader) -> tuple[Described, dict[str, Any]]:
    """Five pickles and, for each storage, its length and its values."""
    # The format's number, its version, and facts about the machine.
    facts = [_followed(file).value for _ in range(3)][-1]
    described, keys = _followed(file), _followed(file).value
    position = file.tell()
    needed = sum(8 + storage.bytes for storage in described.storages.values())
    if not isinstance(keys, list) or set(keys) != described.storages.keys():
        raise RefusedPickleError("does not contain the values that it describes", COPY_AGAIN)
    if needed > file.seek(0, 2) - position:
        raise RefusedPickleError("is a damaged checkpoint: it is truncated", COPY_AGAIN)
    if described.ordinary:
        return described, {}
    if not isinstance(facts, dict) or facts.get("little_endian") is not (sys.byteorder == "little"):
        raise RefusedPickleError(_ENDIAN)
    positions = {}
    for key in dict.fromkeys(keys):
        storage = described.storages[key]
        file.seek(position)
        if struct.unpack("=q", file.read(8))[0] * storage.item_bytes != storage.bytes:
            raise RefusedPickleError("does not contain the values that it describes", COPY_AGAIN)
        positions[key] = position + 8
        position += 8 + storage.bytes
    return described, {"positions": positions}


def _check_plain(file: BufferedReader) -> tuple[Described, dict[str, Any]]:
    """One pickle, whose NumPy arrays are within it."""
    described = _followed(file)
    if file.read(1):
        raise RefusedPickleError("consists of several pickles")
    if described.storages:
        raise RefusedPickleError("does not contain the values that it describes", COPY_AGAIN)
    return replace(described, ordinary=False), {}


def _followed(stream: IO[bytes]) -> Described:
    try:
        return pickle_dry_run.follow(stream)
    except RefusedPickleError:
        raise
    except Exception:
        # A damaged stream can raise any exception.
        reason = "is a damaged checkpoint: it cannot be read completely"
        raise RefusedPickleError(reason, COPY_AGAIN) from None
