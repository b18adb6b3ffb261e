"""The machine and libraries a result was made with: an allow-list, nothing that names a person or a path."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from robust_eval.errors import UserError
from robust_eval.schema import Environment

_LIBRARIES = (
    "torch",
    "torchvision",
    "adversarial-robustness-toolbox",
    "pyautoattack",
    "robustbench",
    "numpy",
)


def library_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``, checked to exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"Device '{name}' is not there: torch sees {torch.cuda.device_count()} CUDA devices.")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"Unknown device '{name}'. Use auto, cpu, cuda or cuda:N.")
    return device


def environment(device: torch.device) -> Environment:
    return Environment(
        robust_eval=library_version("robust-eval"),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        libraries={name: library_version(name) for name in _LIBRARIES},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        tf32=torch.backends.cuda.matmul.allow_tf32,
    )
