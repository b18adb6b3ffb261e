"""Check a file of ``torch.save`` before it is read: what it describes must be what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from typing import IO, Any

from robust_eval.core import plain_values, strict_zip
from robust_eval.models.loading import pickle_dry_run, pickle_scan
from robust_eval.models.loading.pickle_calls import COPY_AGAIN, DescribedTensor, RefusedPickleError
from robust_eval.models.loading.pickle_dry_run import Described

MOST_UNPACKED = 20
"""A file may unpack to this multiple of its size, and its tensors may be that large as float32."""


def check(file: BufferedReader) -> Any:
    """Refuse a file, in the zip format or in the one before torch 1.6, that should not be read.

    Returns:
        What it describes, with inert values in place of tensors and objects.

    Raises:
        RefusedPickleError: the text is the predicate of a sentence about the file.
    """
    zipped = file.read(2) == b"PK"
    file.seek(0)
    described = _check_zip(file) if zipped else _check_legacy(file)
    total = 0
    try:
        for item in plain_values.items(described.value):
            # Weights are converted to float32, which may double their size.
            total += 2 * item.bytes if isinstance(item, DescribedTensor) else 0
    except plain_values.UnboundedError as error:
        raise RefusedPickleError(str(error)) from None
    if total > MOST_UNPACKED * file.seek(0, 2) + 2**26:
        raise RefusedPickleError(f"describes values of more than {MOST_UNPACKED} times its size")
    return described.value


@contextmanager
def opened_zip(file: BufferedReader) -> Iterator[strict_zip.Archive]:
    """The archive of a checkpoint. Raises like :func:`strict_zip.opened`."""
    with strict_zip.opened(file, file.seek(0, 2), ratio=MOST_UNPACKED, free=2**20) as archive:
        yield archive


def _check_zip(file: BufferedReader) -> Described:
    try:
        with opened_zip(file) as archive:
            names = list(archive.sizes)
            if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
                raise RefusedPickleError("is a TorchScript archive, which carries code")
            if any(name.endswith(".npy") for name in names):
                raise RefusedPickleError(
                    "is a NumPy archive, not a checkpoint", "For images use --data npz:FILE."
                )
            # As torch does: the folder of the first member.
            top = names[0].partition("/")[0] if names else ""
            if f"{top}/data.pkl" not in names:
                raise RefusedPickleError(
                    "is a zip archive without a checkpoint at its top", "Unpack it first."
                )
            if archive.sizes[f"{top}/data.pkl"] > pickle_scan.LARGEST_PICKLE:
                raise RefusedPickleError("has too long a description of its content")
            # torch can be configured to omit the checksums.
            described = _followed(BytesIO(archive.read(f"{top}/data.pkl", check=False)))
            for key, storage in described.storages.items():
                if archive.sizes.get(f"{top}/data/{key}") != storage.bytes:
                    raise RefusedPickleError("does not contain the values that it describes", COPY_AGAIN)
    except strict_zip.UnusableZipError as error:
        raise RefusedPickleError(str(error), COPY_AGAIN) from None
    return described


def _check_legacy(file: BufferedReader) -> Described:
    """Five pickles and, for each storage, its length and its values."""
    # The format's number, its version, and facts about the machine.
    for _ in range(3):
        _followed(file)
    described, keys = _followed(file), _followed(file).value
    position = file.tell()
    needed = sum(8 + storage.bytes for storage in described.storages.values())
    if not isinstance(keys, list) or set(keys) != described.storages.keys():
        raise RefusedPickleError("does not contain the values that it describes", COPY_AGAIN)
    if needed > file.seek(0, 2) - position:
        raise RefusedPickleError("is a damaged checkpoint: it is truncated", COPY_AGAIN)
    return described


def _followed(stream: IO[bytes]) -> Described:
    try:
        return pickle_dry_run.follow(stream, pickle_scan.HARMLESS_OBJECTS)
    except RefusedPickleError:
        raise
    except Exception:
        # A damaged stream can raise any exception.
        reason = "is a damaged checkpoint: it cannot be read completely"
        raise RefusedPickleError(reason, COPY_AGAIN) from None
