"""A file that is larger than the free memory is refused by name, and is not called damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robust_eval.core import strict_safetensors, strict_zip, terminal
from robust_eval.core.errors import UserError
from robust_eval.data import npz
from robust_eval.models.loading import file_reader

REFUSED = "needs more memory than is free"


def fail(error: Exception) -> Callable[..., NoReturn]:
    def allocate(*_: Any, **__: Any) -> NoReturn:
        raise error

    return allocate


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    monkeypatch.setattr(strict_safetensors, "bytearray", fail(MemoryError()), raising=False)
    with pytest.raises(UserError, match=rf"net\.safetensors {REFUSED}"):
        file_reader.read(path)


def test_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((2, 8, 8, 1), np.uint8), y=np.arange(2))
    monkeypatch.setattr(strict_zip, "bytearray", fail(MemoryError()), raising=False)
    with pytest.raises(UserError, match=rf"data\.npz {REFUSED}"):
        npz.load(str(path), tmp_path, "test")


def test_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.zeros(3)}, path)
    reason = "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"
    monkeypatch.setattr(torch, "load", fail(RuntimeError(reason)))
    with pytest.raises(UserError, match=rf"net\.pt {REFUSED}"):
        file_reader.read(path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_a_command_that_lacks_memory_stops_with_a_sentence(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        terminal.run_command(fail(error))
    assert stopped.value.code == UserError.exit_code
    assert capsys.readouterr().err.startswith(f"Error: This {REFUSED}")
