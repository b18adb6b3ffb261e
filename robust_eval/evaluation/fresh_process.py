"""Compute logits in a fresh process, to check that the file gives the model that was attacked.

Wrappers around a network in this process, and changes that happen while it is called, are not in the file.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_eval.core.devices import full_precision
from robust_eval.core.errors import UserError
from robust_eval.core.files import temporary_folder
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare

_TIMEOUT = 1800.0


def with_fresh_logits(job: Job, options: EvaluationOptions) -> Job:
    """The job, with a function that loads its options again in a fresh process."""
    return replace(job, fresh_logits=partial(logits, options))


def logits(options: EvaluationOptions, n: int) -> Tensor:
    """Logits (n, K) of the first ``n`` images, from a process that loads everything again.

    Raises:
        UserError: if the process fails.
    """
    with temporary_folder() as folder:
        file = folder / "logits.npy"
        request = {"options": to_json(options), "n": n, "out": str(file)}
        command = [sys.executable, "-P", "-m", "robust_eval.evaluation.fresh_process"]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"no fresh process could be run ({type(error).__name__})") from None
        if done.returncode or not file.exists():
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            # The reason is stored in the result, which must not contain paths of this machine.
            reason = re.sub(r"\S*[/\\](?=\S)", "", last[0])[:200]
            raise UserError(f"the file could not be used in a fresh process ({reason})")
        return torch.from_numpy(np.load(file, allow_pickle=False))


def to_json(options: EvaluationOptions) -> dict[str, object]:
    """Options as JSON values; the inverse of :func:`from_json`."""
    values = asdict(options)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def from_json(values: Mapping[str, object]) -> EvaluationOptions:
    """Options from JSON values."""
    root = values["data_root"]
    return EvaluationOptions(**{**values, "data_root": None if root is None else Path(str(root))})  # type: ignore[arg-type]


@torch.no_grad()
def answer(request: Mapping[str, object]) -> None:
    """In the fresh process: load, compute logits, write them."""
    options, n = request["options"], request["n"]
    assert isinstance(options, dict)
    assert isinstance(n, int)
    job = prepare(from_json(options))
    full_precision()
    found = job.model.eval()(job.x_NCHW[:n])
    np.save(str(request["out"]), found.float().cpu().numpy(), allow_pickle=False)


if __name__ == "__main__":
    answer(json.load(sys.stdin))
