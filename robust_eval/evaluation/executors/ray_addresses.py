"""Find the address of a Ray cluster and check that it answers. Ray itself would try for many minutes."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from robust_eval.core import regular_file
from robust_eval.core.errors import UserError

CONNECT_SECONDS = 5.0
_HOST_PORT = re.compile(r"\[?([\w.:-]+?)\]?:(\d{1,5})")


def find_cluster(wanted: str | None) -> str | None:
    """HOST:PORT of the cluster to join; None: start a private cluster.

    ``wanted``: HOST:PORT, ``auto``, ``local``, or None for the cluster on this machine, if there is one. The
    search is that of Ray (https://docs.ray.io/en/latest/ray-core/api/doc/ray.init.html). A private cluster of
    another command is not joined, because it ends with that command.
    """
    if wanted == "local":
        return None
    if wanted not in (None, "auto"):
        return check_reachable(str(wanted), "--address")
    variable = os.environ.get("RAY_ADDRESS", "")
    if variable not in ("", "auto", "local"):
        return check_reachable(variable, "RAY_ADDRESS")
    last = "" if variable == "local" else _last_started()
    if answers(last):
        return last
    if wanted is None:
        return None
    raise UserError(
        "No Ray cluster was found on this machine. Start one with ray start --head, or leave --address out."
    )


def check_reachable(address: str, name: str) -> str:
    """Return the address if it answers; ``name``: the option that it comes from.

    Raises:
        UserError: if it does not answer, or is not HOST:PORT.
    """
    found = _HOST_PORT.fullmatch(address)
    if found is None or int(found[2]) > 65535:
        raise UserError(
            f"{name} '{address}' is not HOST:PORT of a cluster's head, auto or local. Run the command on a "
            "node of the cluster."
        )
    try:
        _connect(address)
    except OSError as error:
        raise UserError(
            f"Nothing answers at {name} {address} ({error}). Is the cluster up, and this machine on its "
            "network?"
        ) from None
    return address


def answers(address: str) -> bool:
    """Whether something listens at the address."""
    try:
        _connect(address)
    except OSError:
        return False
    return True


def _connect(address: str) -> None:
    found = _HOST_PORT.fullmatch(address)
    if found is None:
        raise OSError("not HOST:PORT")
    try:
        socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
    except (OverflowError, UnicodeError) as error:
        raise OSError(str(error)) from None


def _last_started() -> str:
    """The address that ``ray start`` wrote on this machine; a killed cluster does not remove it."""
    named = os.environ.get("RAY_TMPDIR")
    for folder in [named] if named else [os.environ.get("TMPDIR", "/tmp"), "/tmp"]:
        note = Path(folder) / "ray" / "ray_current_cluster"
        try:
            return regular_file.read_text(note, "addresses of Ray", 2**10).strip()
        except UserError:
            continue
    return ""
