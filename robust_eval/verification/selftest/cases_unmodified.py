"""The adversarially trained network that comes with the self-test, and honest models: no flag at all.

``digits-at.safetensors`` is what ``defenses train`` made (its header holds the recipe, the seed and the
command): 93% clean and 73% robust at Linf 0.1 on scikit-learn's digits, in 16 kB. Shipped rather than
trained on the spot, because this package does not train, and because every machine should be asked about
the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from torch import nn

from robust_eval.evaluation import fresh_process, run
from robust_eval.evaluation.checks import probes
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.results import flags
from robust_eval.verification.selftest import base_networks
from robust_eval.verification.selftest.case import Case, case, ids
from robust_eval.verification.selftest.noise_images import problem

CHECKPOINT = Path(__file__).with_name("digits-at.safetensors")


@cache
def trained(
    suite: str = "clean", norm: str = "Linf", eps: str = "0.1", normalisation: str | None = None
) -> Job:
    """The shipped network on the 360 test digits, as ``robust-eval run`` would take it."""
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
    return fresh_process.reloading(prepare(options), options)


def look(make: Callable[[], nn.Module]) -> set[str]:
    """Flags of a model from a look at 32 images."""
    return ids(flags.from_probe(probes.probe(make().eval(), *problem())))


def cases() -> list[Case]:
    models = {
        "untrained network": base_networks.Honest,
        "untrained network with BatchNorm": base_networks.HonestWithBatchNorm,
        "log-softmax outputs": base_networks.LogSoftmax,
        "logits / 10,000": base_networks.SmallLogits,
        "input noise of 1e-7": base_networks.FaintNoise,
    }
    return [
        *(case("honest", name, (), partial(look, make)) for name, make in models.items()),
        case("honest", "trained network, four attacks, diagnosis", (), _trained),
        case("honest", "trained network in L2", (), _trained_in_l2),
    ]


def _trained() -> set[str]:
    job = trained("fgsm,pgd-20,cw-inf,apgd-ce-t")
    return ids(run.execute(job, diagnose=True).flags)


def _trained_in_l2() -> set[str]:
    return ids(run.execute(trained("fgsm,pgd-20", "L2", "0.5")).flags)
