"""Cases for the diagnosis: attacks that have not converged, and models with misleading gradients."""

from __future__ import annotations

from functools import partial

from robust_eval.evaluation.checks.diagnosis import diagnose
from robust_eval.results import flags
from robust_eval.verification.selftest import planted_attacks, planted_gradients
from robust_eval.verification.selftest.base_networks import ModifiedNetwork
from robust_eval.verification.selftest.case import Case, flag_ids, make_case
from robust_eval.verification.selftest.cases_unmodified import trained_job

_EXAMPLES = 100
_INEFFECTIVE_ATTACKS = (
    "loss-not-rising",
    "more-restarts-help",
    "more-steps-help",
    "noise-beats-gradients",
    "step-size-sensitive",
    "unbounded-attack-fails",
)


_ATTACKS: tuple[tuple[str, planted_attacks.Defect, tuple[str, ...]], ...] = (
    ("a tenth of the steps", planted_attacks.tenth_of_the_steps, ("more-steps-help",)),
    ("a twentieth of the step size", planted_attacks.twentieth_of_the_step, ("step-size-sensitive",)),
    ("skips half of the images", planted_attacks.skips_half, ("more-restarts-help",)),
    ("clips to a smaller epsilon", planted_attacks.smaller_epsilon, ("unbounded-attack-fails",)),
    ("returns the clean image", planted_attacks.returns_clean, ("loss-not-rising", "unbounded-attack-fails")),
)


def cases() -> list[Case]:
    diagnosis = partial(make_case, "diagnosis")
    return [
        *(
            diagnosis(name, expected, partial(_diagnose, defect), *_INEFFECTIVE_ATTACKS)
            for name, defect, expected in _ATTACKS
        ),
        diagnosis(
            "gradient negated",
            ("loss-not-rising", "noise-beats-gradients"),
            _negated_gradient,
            *_INEFFECTIVE_ATTACKS,
        ),
    ]


def _diagnose(defect: planted_attacks.Defect, plant: type[ModifiedNetwork] | None = None) -> set[str]:
    """Flags raised by a diagnosis of the trained network with a planted attack, and with a planted model."""
    job = trained_job()
    model = job.model if plant is None else plant(job.model)
    planted = planted_attacks.PlantedJob(job.request, model, job.x_NCHW, job.y_N, defect=defect)
    return flag_ids(flags.from_diagnosis(diagnose(planted.worker(), examples=_EXAMPLES)))


def _negated_gradient() -> set[str]:
    return _diagnose(planted_attacks.AttackCall.run, planted_gradients.NegatedGradient)
