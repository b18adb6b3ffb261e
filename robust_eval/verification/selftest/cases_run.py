"""Cases for a complete run: planted attacks, and models whose behaviour changes during the run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core.types import BFLOAT16, Column, Suite
from robust_eval.evaluation.run import execute
from robust_eval.verification.selftest import planted_attacks, planted_gradients, planted_models
from robust_eval.verification.selftest.base_networks import ModifiedNetwork
from robust_eval.verification.selftest.case import STOPPED, Case, flag_ids, make_case
from robust_eval.verification.selftest.cases_unmodified import trained_job

SUITE = "fgsm,pgd-20"


class _DarkenedInput(ModifiedNetwork):
    """Preprocessing that is not in the checkpoint file."""

    def change_input(self, x: Tensor) -> Tensor:
        return 0.98 * x


def run(
    defect: planted_attacks.Defect = planted_attacks.AttackCall.run, model: nn.Module | None = None
) -> set[str]:
    """Flags raised by a run of the trained network, or of ``model`` on its images, with planted attacks."""
    job = trained_job(SUITE)
    planted = planted_attacks.PlantedJob(job.request, model or job.model, job.x_NCHW, job.y_N, defect=defect)
    return flag_ids(execute(planted).flags)


def cases() -> list[Case]:
    no_effect = ("attack-without-effect", "budget-unused")
    attack = partial(make_case, "attack")
    model = partial(make_case, "run")
    return [
        attack(
            "1% beyond epsilon",
            ("outside-ball-or-box",),
            _with_defect(planted_attacks.beyond_epsilon),
            *no_effect,
        ),
        attack(
            "pixels below 0", ("outside-ball-or-box",), _with_defect(planted_attacks.outside_box), *no_effect
        ),
        attack(
            "images in bfloat16",
            ("outside-ball-or-box",),
            _with_defect(planted_attacks.rounded_to_bfloat16),
            *no_effect,
        ),
        attack(
            "NaN pixels",
            ("outside-ball-or-box",),
            _with_defect(planted_attacks.nan_pixels),
            "non-finite-under-attack",
            *no_effect,
        ),
        attack("returns the clean image", no_effect, _with_defect(planted_attacks.returns_clean)),
        attack(
            "clips to a smaller epsilon", ("budget-unused",), _with_defect(planted_attacks.smaller_epsilon)
        ),
        attack(
            "PGD with wrong labels", ("weaker-beats-stronger",), _with_defect(planted_attacks.wrong_labels)
        ),
        attack("PGD with tiny steps", ("weaker-beats-stronger",), _with_defect(planted_attacks.tiny_steps)),
        attack("an exception in the third batch", (STOPPED,), _with_model(planted_models.RaisingModel)),
        model("gradient set to zero", ("black-box-beats-white-box", "no-gradients"), _black_box, *no_effect),
        model(
            "another function after the first attack began",
            ("changed-during-run",),
            _with_model(planted_models.DriftingModel),
            "too-few-examples",
        ),
        model(
            "another function when copied",
            ("search-copy-differs",),
            _with_model(planted_models.CopyMismatch),
            "changed-during-run",
            "weaker-beats-stronger",
            *no_effect,
        ),
        model(
            "NaN off the 8-bit grid",
            ("non-finite-under-attack",),
            _with_model(planted_models.NaNOffGrid),
            "no-gradients",
        ),
        model(
            "detail lost in bfloat16",
            ("reduced-precision",),
            _reduced_precision,
            "too-few-examples",
            *no_effect,
        ),
        model("preprocessing outside the file", ("fresh-model-disagrees",), _preprocessing_outside_file),
        model("labels shifted by one", ("clean-accuracy-differs", "collapsed"), _shifted_labels),
        model("wrong normalisation", ("clean-accuracy-differs",), _wrong_normalisation, "too-few-examples"),
    ]


def _with_defect(defect: planted_attacks.Defect) -> partial[set[str]]:
    return partial(run, defect)


def _with_model(plant: type[ModifiedNetwork]) -> partial[set[str]]:
    """A run of the trained network with a planted defect."""
    return partial(_plant_run, plant)


def _plant_run(plant: type[ModifiedNetwork]) -> set[str]:
    return run(model=plant(trained_job().model))


def _black_box() -> set[str]:
    """SPSA with a fiftieth of its default queries, which suffices for this model."""
    job = trained_job(SUITE)
    spec = attacks.spec("spsa", "spsa", {"iterations": 20, "samples": 32})
    columns = (*job.request.suite.columns, Column("spsa", "SPSA", (spec,)))
    suite = Suite("planted", 1, columns)
    families = (*job.request.libraries, ("spsa", attacks.library("spsa")))
    request = replace(job.request, suite=suite, libraries=families)
    model = planted_gradients.ZeroGradient(job.model)
    return flag_ids(execute(replace(job, request=request, model=model)).flags)


def _reduced_precision() -> set[str]:
    """Attacks in bfloat16, which preserves 2 of an image's 8 bits; verdicts in float32.

    Four attacks, because the verdicts of two are too few to exclude chance.
    """
    job = trained_job("fgsm,pgd-10,pgd-20,cw-inf")
    request = replace(job.request, precision=BFLOAT16)
    return flag_ids(execute(replace(job, request=request, model=planted_models.PixelOffset(job.model))).flags)


def _shifted_labels() -> set[str]:
    job = trained_job(SUITE)
    return flag_ids(execute(replace(job, y_N=(job.y_N + 1) % 10)).flags)


def _wrong_normalisation() -> set[str]:
    return flag_ids(execute(trained_job(SUITE, normalisation="0.5/1")).flags)


def _preprocessing_outside_file() -> set[str]:
    job = trained_job(SUITE)
    return flag_ids(execute(replace(job, model=_DarkenedInput(job.model))).flags)
