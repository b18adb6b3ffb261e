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
from defenses.training.state import TrainingProgress
from defenses.training.trainer import train
from robust_eval import data, evaluate
from robust_eval.cli.main import app
from robust_eval.core import devices
from robust_eval.core.threat import ThreatModel
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.verification.selftest.cases_unmodified import CHECKPOINT, trained_job
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
    """Transfers of one call of an attack on 4 images, and the difference from those of the CPU."""
    module = import_module(f"robust_eval.attacks.{name}")
    threat = THREAT if norm == "Linf" else ThreatModel("L2", Fraction("0.5"))
    model = trained_job().model.eval()
    x_NCHW, y_N = data.load("digits").take(4).tensors()

    def images(device: str) -> torch.Tensor:
        x, y = x_NCHW.to(device), y_N.to(device)
        copy = make_attack_copy(model.to(device), sample=x)
        pretend_device.transfers()
        found: torch.Tensor = module.search(copy, x, y, threat, module.Params(**settings), classes=10, seed=0)
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
    found = evaluate(
        model, x_NCHW.to(pretend_device.NAME), y_N.to(pretend_device.NAME), THREAT, suite, **options
    )
    verdicts = [{name: column.n_robust for name, column in one.columns.items()} for one in (on_cpu, found)]
    return {
        **pretend_device.transfers(),
        "same": verdicts[0] == verdicts[1],
        "device": found.environment.device,
    }


class PerUpdate(SilentTrainingDisplay):
    """The most transfers between two updates of an epoch."""

    def __init__(self) -> None:
        self.most = dict.fromkeys(pretend_device.transfers(), 0)

    def update(self, progress: TrainingProgress, loss: float, accuracy: float) -> None:
        counts = pretend_device.transfers()
        if progress.iteration > 1:
            self.most = {name: max(self.most[name], counts[name]) for name in counts}


def training(recipe: str) -> Figures:
    """Transfers per update of a recipe, and whether a checkpoint was written."""
    with TemporaryDirectory() as folder:
        job = make_job(Path(folder), recipe, n=128, device=pretend_device.NAME)
        display = PerUpdate()
        train(job, start_runtime(pretend_device.NAME, "32", 1), display, InterruptHandler())
        return {**display.most, "written": (Path(folder) / "best.pt").exists()}


def command(*words: str) -> Figures:
    """Transfers of a command on the digits checkpoint, and its exit code."""
    checkpoint = str(CHECKPOINT)
    with TemporaryDirectory() as folder:
        given = [word.format(checkpoint=checkpoint, out=str(Path(folder) / "out")) for word in words]
        pretend_device.transfers()
        try:
            app([*given, "--device", pretend_device.NAME], standalone_mode=False)
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return {**pretend_device.transfers(), "exit": code}


LANDSCAPE = ("{checkpoint}", "--data", "digits", "--examples", "8", "--out", "{out}")
RECIPES = ("natural", *(f"{base}{awp}" for base in ("at", "trades", "mart") for awp in ("", "-awp")))
SCENARIOS: Mapping[str, Callable[[], Figures]] = {
    "fgsm": partial(attack, "fgsm", {}),
    **{f"pgd-{n}": partial(attack, "pgd", {"steps": n}) for n in (2, 7)},
    **{f"cw-{n}": partial(attack, "cw_linf", {"steps": n}) for n in (2, 7)},
    **{f"spsa-{n}": partial(attack, "spsa", {"iterations": n, "samples": 8}) for n in (2, 7)},
    "pgd-7 in L2": partial(attack, "pgd", {"steps": 7}, "L2"),
    **{
        phase: partial(attack, "autoattack", {"phase": phase})
        for phase in ("apgd-ce", "apgd-t", "fab-t", "square")
    },
    **{f"evaluate {suite}": partial(evaluation, suite) for suite in ("quick", "full", "fgsm")},
    "diagnose": partial(evaluation, "fgsm", diagnose=True),
    **{f"train {recipe}": partial(training, recipe) for recipe in RECIPES},
    "run": partial(
        command, "run", *LANDSCAPE[:-2], "--eps", "0.1", "--suite", "fgsm", "--out", "{out}", "--workers", "1"
    ),
    "check": partial(command, "check", "{checkpoint}", "--data", "digits", "--examples", "8"),
    "landscape curve": partial(
        command, "landscape", "curve", *LANDSCAPE, "--points", "3", "--directions", "1", "--eps", "0.1"
    ),
    "landscape plane": partial(command, "landscape", "plane", *LANDSCAPE, "--points", "3", "--eps", "0.1"),
    "landscape perturbation": partial(command, "landscape", "perturbation", *LANDSCAPE, "--eps", "0.1"),
    "landscape hessian": partial(
        command, "landscape", "hessian", *LANDSCAPE, "--count", "1", "--iterations", "3", "--eps", "0.1"
    ),
    "landscape scattering": partial(command, "landscape", "scattering", *LANDSCAPE),
}


def main() -> None:
    for module in list(sys.modules.values()):
        if getattr(module, "pick_device", None) is _pick:
            module.pick_device = pick_device  # type: ignore[attr-defined]
    for name in sys.argv[1:]:
        print(json.dumps({"name": name, **SCENARIOS[name]()}), flush=True)


if __name__ == "__main__":
    main()
