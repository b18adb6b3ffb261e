"""Cases with unmodified models, which must raise no flag, and the trained network used by other cases.

``digits-at.safetensors`` was trained with ``defenses train`` (its header holds recipe, seed and command): 93%
clean and 73% robust accuracy at Linf 0.1 on scikit-learn's digits, 16 kB. It is part of the package because
``robust_eval`` does not train, and so that every machine tests the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from torch import nn

from robust_eval.evaluation.checks import probes
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute
from robust_eval.results import flags
from robust_eval.verification.selftest import base_networks
from robust_eval.verification.selftest.case import Case, flag_ids, make_case
from robust_eval.verification.selftest.noise_images import noise_problem

CHECKPOINT = Path(__file__).with_name("digits-at.safetensors")


@cache
def trained_job(
    suite: str = "clean", norm: str = "Linf", eps: str = "0.1", normalisation: str | None = None
) -> Job:
    """A job of the shipped network on the 360 test digits, as ``robust-eval run`` prepares it."""
    options = EvaluationOptions(
        checkpoint=str(CHECKPOINT),
        data="digits",
        suite=suite,
        norm=norm,
        eps=eps,
        normalisation=normalisation,
        device="cpu",
        batch_size=120,
    )
    return prepare(options)


def probe_flags(make: Callable[[], nn.Module]) -> set[str]:
    """Flags raised by the probes of a model on 32 images."""
    return flag_ids(flags.from_probe(probes.probe(make().eval(), *noise_problem())))


def cases() -> list[Case]:
    models = {
        "untrained network": base_networks.SmallNetwork,
        "untrained network with BatchNorm": base_networks.SmallNetworkWithBatchNorm,
        "log-softmax outputs": base_networks.LogSoftmax,
        "logits / 10,000": base_networks.SmallLogits,
        "input noise of 1e-7": base_networks.NegligibleNoise,
    }
    return [
        *(make_case("unmodified", name, (), partial(probe_flags, make)) for name, make in models.items()),
        make_case("unmodified", "trained network, four attacks, diagnosis", (), _trained),
        make_case("unmodified", "trained network in L2, diagnosis", (), _trained_in_l2),
    ]


def _trained() -> set[str]:
    job = trained_job("fgsm,pgd-20,cw-inf,apgd-ce-t")
    return flag_ids(execute(job, diagnose=True).flags)


def _trained_in_l2() -> set[str]:
    return flag_ids(execute(trained_job("fgsm,pgd-20", "L2", "0.5"), diagnose=True).flags)
