"""Flags for what a checkpoint leaves open: the candidates' accuracies, clean and under a short attack."""

from __future__ import annotations

from torch import Tensor

from robust_eval import attacks
from robust_eval.core.float_images import Images
from robust_eval.core.threat import ThreatModel
from robust_eval.evaluation.judge import judge
from robust_eval.evaluation.worker import Worker
from robust_eval.models.loading.load_task import NORMALISATION_UNCERTAIN, LoadedModel, Rival
from robust_eval.models.normalisation import Normalised
from robust_eval.results import FlagRecord, flags

IMAGES = 32
STEPS = 10


def flags_of(loaded: LoadedModel, x_NCHW: Images, y_N: Tensor, threat: ThreatModel) -> tuple[FlagRecord, ...]:
    """The flags of a loaded model. ``x_NCHW`` in [0, 1] and ``y_N`` are on its device."""
    found = list(loaded.doubts.findings)
    rivals = loaded.doubts.rivals
    if rivals:
        x, y = x_NCHW[:IMAGES], y_N[:IMAGES]
        each = [
            f"{rival.normalisation.name} {rival.accuracy:.1%} and {_robust(loaded, rival, x, y, threat):.1%}"
            for rival in rivals
        ]
        figure = (
            f"clean and robust accuracy with {', '.join(each)} (on {rivals[0].n} images, and on {len(x)} "
            f"under PGD-{STEPS} at {threat})"
        )
        found.append((NORMALISATION_UNCERTAIN, figure))
    return flags.records(found)


def _robust(loaded: LoadedModel, rival: Rival, x: Tensor, y: Tensor, threat: ThreatModel) -> float:
    """Robust accuracy with another normalisation."""
    model = Normalised(loaded.network, rival.normalisation).to(x.device).eval()
    worker = Worker(model, x, y, threat, loaded.ref.classes)
    adv = worker.search(attacks.spec("pgd", "pgd", {"steps": STEPS}), x, y, threat, 0)
    correct = judge(model, x, y, x, range(len(x)), threat).robust
    robust = judge(model, x, y, adv, range(len(x)), threat).robust
    return float((correct & robust).mean())
