"""Main memory: how much is available, how much this process has used, and the lack of it."""

from __future__ import annotations

import re
from pathlib import Path

_MEMINFO, _STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")
"""The limit of a container (cgroup v2)."""


def available(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that new processes may use; None if the system does not say."""
    found = [value for value in (_system(meminfo), _container(cgroup)) if value is not None]
    return min(found) if found else None


def is_lack(error: BaseException) -> bool:
    """Whether an error, also one of torch on any device, is a lack of memory."""
    text = str(error).lower()
    found = "out of memory" in text or "can't allocate" in text or "cannot allocate" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and found)


def peak(status: Path = _STATUS) -> int | None:
    """Largest resident memory of this process so far, in bytes; None if the system does not say."""
    return _kilobytes(status, "VmHWM")


def _system(meminfo: Path) -> int | None:
    return _kilobytes(meminfo, "MemAvailable")


def _kilobytes(path: Path, name: str) -> int | None:
    """A line such as ``MemAvailable:   123 kB`` of a file of Linux, in bytes."""
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return int(match[1]) * 1024 if match else None


def _container(cgroup: Path) -> int | None:
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):
        return None
