"""What a closer look must tell: attacks that have not converged, and models that resist for no reason."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from robust_eval.evaluation.checks.diagnosis import diagnose
from robust_eval.results import flags
from robust_eval.verification.selftest import planted_attacks, planted_models
from robust_eval.verification.selftest.base_networks import ModifiedNetwork
from robust_eval.verification.selftest.case import Case, case, ids
from robust_eval.verification.selftest.cases_unmodified import trained_job

_EXAMPLES = 50
_FRUITLESS = (
    "loss-not-rising",
    "more-restarts-help",
    "more-steps-help",
    "noise-beats-gradients",
    "step-size-sensitive",
    "unbounded-attack-fails",
)


class _Shifted(ModifiedNetwork):
    """Something done to the input that the file knows nothing of."""

    def before(self, x: Tensor) -> Tensor:
        return 0.98 * x


_ATTACKS: tuple[tuple[str, planted_attacks.Defect, tuple[str, ...]], ...] = (
    ("a tenth of the steps", planted_attacks.tenth_of_the_steps, ("more-steps-help",)),
    ("a twentieth of the step", planted_attacks.twentieth_of_the_step, ("step-size-sensitive",)),
    ("forgets half of the images", planted_attacks.skips_half, ("more-restarts-help",)),
    ("clips to a smaller epsilon", planted_attacks.smaller_epsilon, ("unbounded-attack-fails",)),
    ("returns the clean image", planted_attacks.returns_clean, ("loss-not-rising", "unbounded-attack-fails")),
)


def cases() -> list[Case]:
    closer = partial(case, "diagnosis")
    return [
        *(closer(name, expected, partial(_look, defect), *_FRUITLESS) for name, defect, expected in _ATTACKS),
        closer("gradient flipped", ("loss-not-rising", "noise-beats-gradients"), _flipped, *_FRUITLESS),
        closer("preprocessing outside the file", ("fresh-process-disagrees",), _not_the_file),
    ]


def _look(defect: planted_attacks.Defect, plant: type[ModifiedNetwork] | None = None) -> set[str]:
    job = trained_job()
    model = job.model if plant is None else plant(job.model)
    planted = planted_attacks.PlantedJob(job.request, model, job.x_NCHW, job.y_N, defect=defect)
    return ids(flags.from_diagnosis(diagnose(planted.worker(), examples=_EXAMPLES)))


def _flipped() -> set[str]:
    return _look(planted_attacks.AttackCall.run, planted_models.NegatedGradient)


def _not_the_file() -> set[str]:
    job = trained_job()
    planted = planted_attacks.PlantedJob(job.request, _Shifted(job.model), job.x_NCHW, job.y_N)
    return ids(flags.from_diagnosis(diagnose(planted.worker(), examples=_EXAMPLES, fresh=job.fresh)))
