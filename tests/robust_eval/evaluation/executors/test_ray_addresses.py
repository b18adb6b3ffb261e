"""Choosing the address of a Ray cluster. These tests start no cluster."""

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
def address_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which ``ray start`` stores the address of its cluster."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.mark.parametrize("address", ["nonsense", "ray://host:10001", "host", "http://a:1", "a:99999", ""])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(
        UserError, match=f"--address '{address}' is not HOST:PORT of a cluster's head, auto or"
    ):
        ray_addresses.find_cluster(address)


def test_an_address_without_a_server_is_refused(closed: str) -> None:
    with pytest.raises(UserError, match=f"Nothing answers at --address {closed} .*refused"):
        ray_addresses.find_cluster(closed)


def test_a_running_cluster_of_this_machine_is_used(listening: str, address_file: Path) -> None:
    address_file.write_text(listening)
    assert (
        ray_addresses.find_cluster(None)
        == ray_addresses.find_cluster("auto")
        == ray_addresses.find_cluster(listening)
        == listening
    )
    assert ray_addresses.find_cluster("local") is None


def test_the_address_of_a_killed_cluster_is_ignored(closed: str, address_file: Path) -> None:
    """Ray itself would wait for it for 15 minutes."""
    address_file.write_text(closed)
    assert ray_addresses.find_cluster(None) is None
    with pytest.raises(UserError, match="No Ray cluster was found on this machine. Start one with ray start"):
        ray_addresses.find_cluster("auto")


def test_without_a_stored_address_no_cluster_is_found(address_file: Path) -> None:
    """Private clusters of other commands store no address: they end with those commands."""
    assert ray_addresses.find_cluster(None) is None
    with pytest.raises(UserError, match="No Ray cluster was found on this machine"):
        ray_addresses.find_cluster("auto")


def test_the_address_is_taken_from_the_environment(
    listening: str, closed: str, address_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address_file.write_text(closed)
    monkeypatch.setenv("RAY_ADDRESS", listening)
    assert ray_addresses.find_cluster(None) == ray_addresses.find_cluster("auto") == listening
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(UserError, match=f"Nothing answers at RAY_ADDRESS {closed}"):
        ray_addresses.find_cluster(None)
    address_file.write_text(listening)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_addresses.find_cluster(None) is None
