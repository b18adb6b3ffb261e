"""Evaluate the adversarial robustness of image classifiers and publish results that others can verify.

The public interface is ``evaluate``, ``EvalResult`` and ``ThreatModel``. They are loaded on first use,
because torch and the attack libraries take seconds to import. May import every folder of the package, and
nothing of ``defenses``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robust_eval.core.threat import ThreatModel
    from robust_eval.evaluation.in_memory import evaluate
    from robust_eval.results import EvalResult

_MODULES = {
    "evaluate": "robust_eval.evaluation.in_memory",
    "EvalResult": "robust_eval.results",
    "ThreatModel": "robust_eval.core.threat",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'robust_eval' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


__all__ = ["EvalResult", "ThreatModel", "evaluate"]
