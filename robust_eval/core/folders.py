"""Folders that several commands write: their lock, and changes of several files together.

A change writes and removes files of a locked folder together, or not at all, also if the process is killed or
the disk is full. The new files are staged in the subfolder ``.change``. Then its plan is renamed into place,
which decides the change: the files are renamed to where they belong, and what gives way is removed last. The
next process that locks the folder completes a change that was decided, and discards one that was not.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, create_folder, report_write_errors, sweep, sync_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = ".lock"
STAGED = ".change"
"""Subfolder with the files of a change that is not complete."""
_PLAN = "plan.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Answers of file systems without locks."""
WAIT_SECONDS = 60.0
"""How long a command waits for another one that changes the same files."""


@contextmanager
def lock_folder(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Lock a folder for one process; create it if necessary. A change that was interrupted is completed.

    The system releases the lock when the process ends for any reason. The file of the lock is removed at the
    end; one that a killed process left behind is used again.

    Args:
        folder: must not be locked by this process already.
        wait: seconds to wait for another process.

    Raises:
        UserError: if another process has the lock, the folder cannot be written (the cause: an OSError), or
            it contains a link to another folder.
    """
    with report_write_errors(folder):
        create_folder(folder)
        _refuse_linked_folders(folder)
        lock = _acquire(folder, wait)
    try:
        complete_change(folder)
        sweep(folder)
        yield
    finally:
        with suppress(OSError):  # Windows removes the file when the lock is released
            Path(lock.lock_file).unlink()
        lock.release()


def _refuse_linked_folders(folder: Path) -> None:
    """A folder may come from someone else: nothing is written or removed outside it. Linked files are
    replaced, not written to."""
    for path in folder.iterdir():
        if path.is_symlink() and not path.is_file():
            raise UserError(
                f"{path} is a symbolic link out of the folder. Delete it, or copy there what it refers to."
            )


def _acquire(folder: Path, wait: float) -> BaseFileLock:
    from filelock import SoftFileLock, Timeout

    advice = ""
    try:
        try:
            return _acquire_native(folder / LOCK_FILE, wait)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            lock = SoftFileLock(folder / f"{LOCK_FILE}.pid")
            advice = f" If it no longer exists, delete {lock.lock_file}."
            lock.acquire(timeout=wait)
            return lock
    except Timeout:
        raise UserError(
            f"Another process is working in {folder}. Wait for it to end, or choose another folder.{advice}"
        ) from None


def _acquire_native(path: Path, wait: float) -> BaseFileLock:
    from filelock import FileLock

    def check_path(handle: int) -> None:
        # The process before removes the file, possibly after this one has opened it.
        if not os.path.samestat(os.fstat(handle), path.stat()):
            raise FileNotFoundError

    while True:
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False, on_acquired=check_path)
        try:
            lock.acquire(timeout=wait)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
        else:
            return lock


def change_files(folder: Path, write: Mapping[str, bytes | Path], remove: Sequence[str] = ()) -> None:
    """Write and remove files of a locked folder, together or not at all.

    Args:
        write: content by path relative to the folder, with ``/``; the files appear in this order. Instead of
            the content, a temporary file of the folder that is on disk; it is moved.
        remove: paths that are removed after that, in this order.

    Raises:
        UserError: if writing fails; the message says whether the change was discarded or will be completed.
    """
    staged = folder / STAGED
    plan = {"write": list(write), "remove": list(remove)}
    with report_write_errors(folder):
        try:
            create_folder(staged)
            for number, content in enumerate(write.values()):
                if isinstance(content, Path):
                    content.replace(staged / str(number))
                    sync_folder(staged)
                    continue
                with atomic(staged / str(number)) as file:
                    file.write(content)
            with atomic(staged / _PLAN) as file:
                file.write(json.dumps(plan).encode())
        except BaseException as error:
            decided = (staged / _PLAN).exists()
            if not decided:
                shutil.rmtree(staged, ignore_errors=True)
            if not (decided and isinstance(error, OSError)):
                raise
    complete_change(folder)


def has_change(folder: Path) -> bool:
    """Whether a change of the folder was interrupted or is in progress."""
    return (folder / STAGED).is_dir()


def settle(folder: Path) -> None:
    """Complete a change of an unlocked folder that was interrupted; wait for one that is in progress."""
    if has_change(folder):
        with lock_folder(folder, WAIT_SECONDS):
            pass


def complete_change(folder: Path) -> None:
    """Complete the change of a locked folder if it was decided, otherwise discard it.

    Raises:
        UserError: if that fails, or if the plan was not written by :func:`change_files`.
    """
    staged = folder / STAGED
    if not staged.is_dir():
        return
    try:
        if (staged / _PLAN).exists():
            _carry_out(folder, staged)
        shutil.rmtree(staged)
        sync_folder(folder)
    except OSError as error:
        raise UserError(
            f"A change of {folder} is stored but not complete ({error.strerror or error}). Make sure that "
            "files can be written there; the next command completes it."
        ) from error


def _carry_out(folder: Path, staged: Path) -> None:
    write, remove = _read_plan(folder, staged / _PLAN)
    changed = {folder, staged}
    for number, path in enumerate(write):
        new = staged / str(number)
        if new.exists():  # otherwise it was renamed before an interruption
            create_folder(path.parent)
            new.replace(path)
        changed.add(path.parent)
    for path in remove:
        path.unlink(missing_ok=True)
        changed.add(path.parent)
    for parent in changed:
        if parent.is_dir():
            sync_folder(parent)
    (staged / _PLAN).unlink()


def _read_plan(folder: Path, plan: Path) -> tuple[list[Path], list[Path]]:
    try:
        value: Any = strict_json.read(plan)
        write, remove = ([_inside(folder, name) for name in value[key]] for key in ("write", "remove"))
    except (UserError, ValueError, TypeError, KeyError):
        raise UserError(f"{plan} is not the plan of a change. Delete {plan.parent}.") from None
    return write, remove


def _inside(folder: Path, name: str) -> Path:
    """The path of a file in the folder. Raises ValueError for a name that leads out of it."""
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    links = any(
        parent.is_symlink() for parent in path.parents if parent != folder and folder in parent.parents
    )
    if not parts or any(part in ("/", "..") or "\\" in part or ":" in part for part in parts) or links:
        raise ValueError(name)
    return path
