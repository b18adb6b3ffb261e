"""Machine and library versions of a result: a fixed list without user names or paths."""

from __future__ import annotations

import platform

import torch

from robust_eval.core.devices import device_name
from robust_eval.core.versions import library_version
from robust_eval.results import Environment

_LIBRARIES = (
    "torch",
    "torchvision",
    "adversarial-robustness-toolbox",
    "pyautoattack",
    "robustbench",
    "numpy",
)


def environment(device: torch.device) -> Environment:
    """The current environment, with ``device`` as the one the evaluation ran on."""
    return Environment(
        robust_eval=library_version("robust-eval"),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        libraries={name: library_version(name) for name in _LIBRARIES},
        device=device_name(device),
        threads=torch.get_num_threads(),
        tf32=torch.backends.cuda.matmul.allow_tf32,
    )
