"""Versions of the installed program and libraries, as files name them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def library_version(name: str) -> str:
    """Version of an installed distribution, or ``unknown``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def written_by() -> str:
    """Program and version: ``robust-eval 0.1.0``."""
    return f"robust-eval {library_version('robust-eval')}"
