"""The available memory is the least that system and container allow."""

from __future__ import annotations

from pathlib import Path

from robust_eval.core import memory


def write(folder: Path, available: str, limit: str, used: str) -> tuple[Path, Path]:
    meminfo = folder / "meminfo"
    meminfo.write_text(f"MemTotal:       9000 kB\n{available}")
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(used)
    return meminfo, folder


def test_the_smaller_of_system_and_container(tmp_path: Path) -> None:
    assert memory.available(*write(tmp_path, "MemAvailable:   2000 kB\n", "max", "5")) == 2000 * 1024
    assert memory.available(*write(tmp_path, "MemAvailable:   2000 kB\n", "9000", "4000\n")) == 5000
    assert memory.available(*write(tmp_path, "MemAvailable:   2000 kB\n", "9000", "9500")) == 0


def test_unknown(tmp_path: Path) -> None:
    assert memory.available(tmp_path / "none", tmp_path / "none") is None
    assert memory.available(*write(tmp_path, "", "max", "1")) is None


def test_this_process_has_used_some() -> None:
    used = memory.peak()
    assert used is None or used > 10 * 2**20
