"""Connect to a Ray cluster, or start a private one, and divide its resources among workers."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from robust_eval.core import extras
from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import ray_addresses
from robust_eval.evaluation.planning.options import ClusterOptions, check_workers

GIB = 2**30
MEMORY = 2 * GIB
"""Largest default memory per worker, in bytes: for a model, its attack copy and the images."""


@dataclass(frozen=True)
class GrantedResources:
    """Number of workers and resources of each, on a connected cluster; ``memory`` in bytes."""

    workers: int
    gpus: float
    cpus: int
    memory: int
    owns_connection: bool = False
    """This process connected, and must disconnect."""


def connect(wanted: ClusterOptions, device: str, object_store: int | None = None) -> GrantedResources:
    """Connect to the cluster at the address, or to the one on this machine, or start a private one.

    ``device``: auto, cpu or cuda; ``object_store``: bytes, for a private cluster.

    Raises:
        UserError: if there is no cluster, or if it has too few resources.
    """
    ray = _import()
    _check(wanted, device)
    owns_connection = not ray.is_initialized()
    if owns_connection:
        _init(ray, wanted, device, object_store)
    try:
        return replace(_grant(wanted, device, ray.cluster_resources()), owns_connection=owns_connection)
    except UserError:
        if owns_connection:
            ray.shutdown()
        raise


def _import() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # With Ray's default of 15, all other processes of a workstation would have priority.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return extras.load("ray", "ray", "--executor ray")


def _check(wanted: ClusterOptions, device: str) -> None:
    check_workers(wanted)
    if wanted.gpus is not None and wanted.gpus < 0:
        raise UserError(f"--worker-gpus must be 0 or more, got {wanted.gpus:g}.")
    if wanted.gpus is not None and wanted.gpus > 1 and wanted.gpus != int(wanted.gpus):
        raise UserError(f"--worker-gpus {wanted.gpus:g}: a part of one GPU such as 0.5, or a whole number.")
    if wanted.memory is not None and wanted.memory <= 0:
        raise UserError("--worker-memory must be above 0 GiB.")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"With --executor ray, Ray assigns the devices: use --device auto, cpu or cuda, not {device}."
        )


def _init(ray: Any, wanted: ClusterOptions, device: str, object_store: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = ray_addresses.find_cluster(wanted.address)
    if address is None:
        _start(ray, wanted, device, object_store, quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise UserError(
            f"No Ray cluster was found at {address} ({first_line(error)}). Start one with ray start --head, "
            "or leave --address out."
        ) from None
    except Exception as error:  # Ray's own errors share no class with RuntimeError
        raise _refused(error) from None


def _start(
    ray: Any, wanted: ClusterOptions, device: str, object_store: int | None, quiet: Mapping[str, Any]
) -> None:
    """Start a private cluster on this machine, which ends with this process.

    Raises:
        UserError: if Ray cannot start it.
    """
    import torch

    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    # Ray starts an idle process for every CPU of the cluster.
    workers = wanted.workers or _most(wanted, {"CPU": float(os.cpu_count() or 1), "GPU": float(gpus)})
    cpus = max(1, workers) * (wanted.cpus or 1)
    store = object_store or 256 * 2**20 + 32 * 2**20 * max(1, workers)
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=store,
            include_dashboard=False,
            **quiet,
        )
    except Exception as error:  # of no class in particular, for example if a start takes more than 30 s
        ray.shutdown()
        raise UserError(
            f"Ray could not start on this machine ({first_line(error)}). Try again when other programs leave "
            "it more time and memory, or leave --executor ray out."
        ) from None


def _refused(error: Exception) -> UserError:
    text = str(error)
    if "AuthToken" in text:
        return UserError(
            "The cluster requires a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
            "RAY_AUTH_TOKEN_PATH) to the values with which it was started."
        )
    if "ersion mismatch" in text:
        found = re.findall(r"(Ray|Python): ([\w.]+)", text)
        theirs = ", ".join(f"{name} {number}" for name, number in found[:2])
        own = f"Ray {installed('ray')}, Python {platform.python_version()}"
        return UserError(
            f"The cluster runs other versions ({theirs or 'unknown'}) than this process ({own}): install "
            "the same everywhere, or start the cluster from this environment."
        )
    return UserError(f"Ray refused to connect: {first_line(error)}.")


def first_line(error: BaseException) -> str:
    """First line of an exception's message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:200]


def installed(name: str) -> str:
    """Version of an installed distribution, or ``none``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _gpus_each(wanted: ClusterOptions, total: Mapping[str, float]) -> float:
    return wanted.gpus if wanted.gpus is not None else (1.0 if total["GPU"] else 0.0)


def _most(wanted: ClusterOptions, total: Mapping[str, float]) -> int:
    """Largest number of workers: limited by GPUs if there are any, else by CPUs."""
    gpus = _gpus_each(wanted, total)
    return int(total["GPU"] / gpus + 1e-9) if gpus else int(total["CPU"] // (wanted.cpus or 1))


def _grant(wanted: ClusterOptions, device: str, available: Mapping[str, float]) -> GrantedResources:
    """Divide the resources.

    Raises:
        UserError: if more is requested than the cluster has.
    """
    total = {"CPU": available.get("CPU", 0.0), "GPU": 0.0 if device == "cpu" else available.get("GPU", 0.0)}
    if device == "cuda" and not total["GPU"]:
        raise UserError("--device cuda, but the cluster has no GPU. Use --device cpu.")
    gpus = _gpus_each(wanted, total)
    workers = wanted.workers if wanted.workers is not None else max(1, _most(wanted, total))
    for name, each in (("GPU", gpus), ("CPU", float(wanted.cpus or 1))):
        if workers * each > total[name] + 1e-9:
            raise UserError(
                f"{workers} worker{'s' * (workers > 1)} with {each:g} {name}{'s' * (each != 1)} each need "
                f"{workers * each:g}, but the cluster has {total[name]:g}: lower --workers or "
                f"--worker-{name.lower()}s."
            )
    room = int(available.get("memory", 0.0) / workers)
    memory = int(wanted.memory * GIB) if wanted.memory is not None else min(MEMORY, room)
    if memory > room:
        raise UserError(
            f"{workers} workers with {memory / GIB:g} GiB each do not fit: the cluster has "
            f"{room * workers / GIB:.1f} GiB in all. Lower --workers or --worker-memory."
        )
    return GrantedResources(workers, gpus, wanted.cpus or 1, memory)
