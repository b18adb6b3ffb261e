"""Which cluster is joined. Nothing here starts one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import ray_addresses


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``ray start`` writes its address."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.mark.parametrize("address", ["nonsense", "ray://host:10001", "host", "http://a:1", "a:99999", ""])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(
        UserError, match=f"--address '{address}' is not HOST:PORT of a cluster's head, auto or"
    ):
        ray_addresses.find_cluster(address)


def test_an_address_where_nothing_answers(closed: str) -> None:
    with pytest.raises(UserError, match=f"Nothing answers at --address {closed} .*refused"):
        ray_addresses.find_cluster(closed)


def test_a_cluster_that_runs_here_is_joined(listening: str, note: Path) -> None:
    note.write_text(listening)
    assert (
        ray_addresses.find_cluster(None)
        == ray_addresses.find_cluster("auto")
        == ray_addresses.find_cluster(listening)
        == listening
    )
    assert ray_addresses.find_cluster("local") is None


def test_the_note_of_a_killed_cluster_is_not_believed(closed: str, note: Path) -> None:
    """Ray itself waits a quarter of an hour for it."""
    note.write_text(closed)
    assert ray_addresses.find_cluster(None) is None
    with pytest.raises(UserError, match="No Ray cluster was found on this machine. Start one with ray start"):
        ray_addresses.find_cluster("auto")


def test_without_a_note_there_is_no_cluster(note: Path) -> None:
    """Not even where another command runs one of its own: it would end with that command."""
    assert ray_addresses.find_cluster(None) is None
    with pytest.raises(UserError, match="No Ray cluster was found on this machine"):
        ray_addresses.find_cluster("auto")


def test_the_environment_names_one(
    listening: str, closed: str, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note.write_text(closed)
    monkeypatch.setenv("RAY_ADDRESS", listening)
    assert ray_addresses.find_cluster(None) == ray_addresses.find_cluster("auto") == listening
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(UserError, match=f"Nothing answers at RAY_ADDRESS {closed}"):
        ray_addresses.find_cluster(None)
    note.write_text(listening)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_addresses.find_cluster(None) is None
