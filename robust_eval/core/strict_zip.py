"""Read the directory and the members of an untrusted zip archive (NumPy archives, checkpoints)."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import IO

_LARGEST_DIRECTORY = 8 * 2**20
_MOST_COPIED = 2**20


class UnusableZipError(Exception):
    """Why an archive is not read, as the predicate of a sentence about the file."""


@contextmanager
def opened(file: IO[bytes], size: int, *, ratio: int, free: int) -> Iterator[Archive]:
    """The archive in ``file``, of ``size`` bytes; nothing is unpacked yet.

    Raises:
        UnusableZipError: if the directory is damaged or larger than 8 MiB, if a name occurs twice, if a
            member is encrypted or compressed by another method than deflate, or if all members together
            unpack to more than ``ratio`` times ``size`` plus ``free`` bytes. Every error while the block
            reads from the archive is reported in this way.
    """
    with _reported():
        if _directory_size(file, size) > _LARGEST_DIRECTORY:
            raise UnusableZipError("has a directory of more than 8 MiB")
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise UnusableZipError("has two members of one name")
            for name, member in members.items():
                _check_member(name, member)
            if sum(member.file_size for member in members.values()) > ratio * size + free:
                raise UnusableZipError(f"unpacks to more than {ratio} times its size")
            yield Archive(archive, members)


class Archive:
    """The members of an open archive, by name."""

    def __init__(self, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> None:
        self._archive, self._members = archive, members
        self.sizes = {name: member.file_size for name, member in members.items()}
        """Unpacked sizes in bytes."""

    @contextmanager
    def member(self, name: str, *, check: bool = True) -> Iterator[IO[bytes]]:
        """Open a member for reading; ``check``: report a wrong checksum at its end."""
        member = copy(self._members[name])
        if not check:
            # The documented attribute; zipfile compares the checksum only if there is one.
            del member.CRC
        with _reported(), self._archive.open(member) as file:
            yield file

    def read(self, name: str, *, check: bool = True) -> bytes:
        """The content of a member; ``check``: verify its checksum."""
        with self.member(name, check=check) as file:
            return bytes(fill(file, self.sizes[name]))

    def first_damaged(self) -> str | None:
        """The name of the first member with a wrong checksum; None if there is none."""
        for name in self.sizes:
            try:
                with self.member(name) as file:
                    while file.read(_MOST_COPIED):
                        pass
            except UnusableZipError:
                return name
        return None


def fill(file: IO[bytes], size: int) -> bytearray:
    """Exactly the last ``size`` bytes of a member.

    Raises:
        EOFError: if it has another size.
    """
    content, position = bytearray(size), 0
    while chunk := file.read(_MOST_COPIED):
        if position + len(chunk) > size:
            raise EOFError("a member is longer than its directory entry")
        content[position : position + len(chunk)] = chunk
        position += len(chunk)
    if position < size:
        raise EOFError("a member is shorter than its directory entry")
    return content


@contextmanager
def _reported() -> Iterator[None]:
    """Report every error of the zip and zlib modules, which raise many kinds for damaged files."""
    try:
        yield
    except UnusableZipError:
        raise
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        ValueError,
        EOFError,
        OSError,
        RuntimeError,
        struct.error,
        zlib.error,
    ) as error:
        raise UnusableZipError(
            f"is damaged ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None


def _check_member(name: str, member: zipfile.ZipInfo) -> None:
    if member.flag_bits & 1:
        raise UnusableZipError(f"is encrypted ({name!a})")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnusableZipError(f"is compressed by an unknown method ({name!a})")
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        raise UnusableZipError(f"is damaged (two sizes are given for {name!a})")


def _directory_size(file: IO[bytes], size: int) -> int:
    """Size of the directory in bytes, from the records at the end of the file; zipfile reads all of it.

    The directory must lie directly before these records, so that all readers find the same one.
    """
    file.seek(max(0, size - 98))
    end = file.read(98)
    if len(end) < 22 or not end[-22:].startswith(b"PK\x05\x06"):
        raise UnusableZipError("is truncated, or other data follow the archive")
    directory, start = struct.unpack("<LL", end[-10:-2])
    records = 22
    if end[-42:].startswith(b"PK\x06\x07"):
        # The format for large archives: two further records, of 56 and 20 bytes, give sizes of 64 bits.
        directory, start = struct.unpack("<QQ", end[40:56])
        records = 98 if end.startswith(b"PK\x06\x06") else 0
    if not records or start + directory + records != size:
        raise UnusableZipError("has a damaged directory")
    return int(directory)
