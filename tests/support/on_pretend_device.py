"""Measurements on the pretend device, each printed as one line of JSON: ``{name: ..., **figures}``.

Run: python -m support.on_pretend_device NAME [NAME ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from defenses.training.display import SilentTrainingDisplay
from defenses.training.runtime import start_runtime
from defenses.training.signals import InterruptHandler
from defenses.training.trainer import train
from robust_eval import data, evaluate
from robust_eval.core import devices
from robust_eval.core.threat import ThreatModel
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.verification.selftest.cases_unmodified import trained_job
from support import pretend_device
from support.small_jobs import make_job

THREAT = ThreatModel("Linf", Fraction("0.1"))
Figures = Mapping[str, Any]
_pick = devices.pick_device


def pick_device(text: str) -> torch.device:
    """Also knows the pretend device."""
    return torch.device(text) if text.startswith(pretend_device.NAME) else _pick(text)


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x_NCHW, y_N = data.load("digits").take(n).tensors()
    return x_NCHW.to(pretend_device.NAME), y_N.to(pretend_device.NAME)


def attack(name: str, settings: Mapping[str, Any], norm: str = "Linf") -> Figures:
    """Transfers of one call of an attack on 4 images, and the largest difference from the images of the CPU."""
    module = import_module(f"robust_eval.attacks.{name}")
    threat = THREAT if norm == "Linf" else ThreatModel("L2", Fraction("0.5"))
    model = trained_job().model.eval()
    x_NCHW, y_N = data.load("digits").take(4).tensors()

    def images(device: str) -> torch.Tensor:
        x, y = x_NCHW.to(device), y_N.to(device)
        copy = make_attack_copy(model.to(device), sample=x)
        pretend_device.transfers()
        found: torch.Tensor = module.search(
            copy, x, y, threat, module.Params(**settings), classes=10, seed=0
        )
        return found

    on_cpu = images("cpu")
    on_device = images(pretend_device.NAME)
    counts = pretend_device.transfers()
    return {**counts, "difference": float((on_cpu - on_device.cpu()).abs().max())}


def evaluation(suite: str, n: int = 4, **options: Any) -> Figures:
    """Transfers of :func:`robust_eval.evaluate`, and whether its verdicts are those on the CPU."""
    model = trained_job().model
    x_NCHW, y_N = data.load("digits").take(n).tensors()
    on_cpu = evaluate(model, x_NCHW, y_N, THREAT, suite, **options)
    model.to(pretend_device.NAME)
    pretend_device.transfers()
    found = evaluate(model, x_NCHW.to(pretend_device.NAME), y_N.to(pretend_device.NAME), THREAT, suite, **options)
    verdicts = [{name: column.n_robust for name, column in one.columns.items()} for one in (on_cpu, found)]
    return {**pretend_device.transfers(), "same": verdicts[0] == verdicts[1], "device": found.environment.device}


def training(recipe: str, precision: str = "32") -> Figures:
    """Transfers per update of a recipe: those of three epochs less those of two, over their updates."""
    counts = []
    for epochs in (2, 3):
        with TemporaryDirectory() as folder:
            job = make_job(Path(folder), recipe, precision=precision, device=pretend_device.NAME, epochs=epochs)
            runtime = start_runtime(pretend_device.NAME, precision, 1)
            pretend_device.transfers()
            train(job, runtime, SilentTrainingDisplay(), InterruptHandler())
            counts.append(pretend_device.transfers())
    return {name: counts[1][name] - counts[0][name] for name in counts[0]}


SCENARIOS: Mapping[str, Callable[[], Figures]] = {
    "fgsm": partial(attack, "fgsm", {}),
    "pgd-2": partial(attack, "pgd", {"steps": 2}),
    "pgd-7": partial(attack, "pgd", {"steps": 7}),
    "pgd-7 in L2": partial(attack, "pgd", {"steps": 7}, "L2"),
    "cw-2": partial(attack, "cw_linf", {"steps": 2}),
    "cw-7": partial(attack, "cw_linf", {"steps": 7}),
    "spsa-2": partial(attack, "spsa", {"iterations": 2, "samples": 8}),
    "spsa-7": partial(attack, "spsa", {"iterations": 7, "samples": 8}),
    **{phase: partial(attack, "autoattack", {"phase": phase}) for phase in ("apgd-ce", "apgd-t", "fab-t", "square")},
    **{f"evaluate {suite}": partial(evaluation, suite) for suite in ("quick", "full", "fgsm")},
    "diagnose": partial(evaluation, "fgsm", diagnose=True),
    **{f"train {r}": partial(training, r) for r in ("natural", "at", "at-awp", "trades-awp", "mart-awp")},
}


def main() -> None:
    for module in list(sys.modules.values()):
        if getattr(module, "pick_device", None) is _pick:
            module.pick_device = pick_device  # type: ignore[attr-defined]
    for name in sys.argv[1:]:
        print(json.dumps({"name": name, **SCENARIOS[name]()}), flush=True)


if __name__ == "__main__":
    main()
