"""Measure planted and honest models: flags, robust accuracy by the suite, and by an adaptive attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robust_eval.core.errors import UserError
from robust_eval.evaluation.in_memory import evaluate
from robust_eval.results import EvalResult
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.plant import Plant
from scripts.tables.adaptive_attacks import AdaptiveAttack
from scripts.tables.honest_models import SUITE, HonestModel

EXAMPLES = 100
"""Of a planted model."""
NOT_COUNTED = "too-few-examples"
"""The flag that every evaluation of EXAMPLES images raises."""
Figures = Mapping[str, Any]


def measure_plant(plant: Plant) -> Figures:
    """Flags and worst case of a run, and robust examples under the adaptive attack."""
    x_NCHW, y_N = (tensor[:EXAMPLES] for tensor in digit_images())
    network = plain_network()
    found: dict[str, Any] = {"group": plant.group, "source": plant.source}
    try:
        result = evaluate(plant.build(network), x_NCHW, y_N, THREAT, SUITE, diagnose=True)
        found |= _figures(result)
    except UserError as error:
        found |= {"flags": {}, "stopped": str(error)}
    attack = AdaptiveAttack(plant.build, network, x_NCHW, y_N, THREAT.radius)
    return {**found, "adaptive": int(attack.robust().sum())}


def measure_honest(model: HonestModel) -> Figures:
    """Flags and worst case of a run."""
    return {"data": model.data, "threat": model.threat, **_figures(model.run())}


def _figures(result: EvalResult) -> Figures:
    counted = [flag for flag in result.flags if flag.id != NOT_COUNTED]
    return {
        "n": result.data.n,
        "clean": result.columns["clean"].n_robust,
        "robust": result.worst_case.n_robust,
        "flags": {flag.id: flag.severity for flag in counted},
    }
