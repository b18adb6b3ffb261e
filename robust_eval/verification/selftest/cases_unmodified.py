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

from robust_eval.evaluation import fresh_process as fresh
from robust_eval.evaluation import run as evaluation
from robust_eval.evaluation.checks import probes
from robust_eval.evaluation.prepare import Options, prepare
from robust_eval.evaluation.run import Job
from robust_eval.results import flags
from robust_eval.verification.selftest import base_networks as networks
from robust_eval.verification.selftest.case import Case, case, ids
from robust_eval.verification.selftest.noise_images import problem

CHECKPOINT = Path(__file__).with_name("digits-at.safetensors")


@cache
def trained(
    suite: str = "clean", norm: str = "Linf", eps: str = "0.1", normalisation: str | None = None
) -> Job:
    """The shipped network on the 360 test digits, as ``robust-eval run`` would take it."""
    options = Options(
        checkpoint=str(CHECKPOINT),
        data="digits",
        suite=suite,
        norm=norm,
        eps=eps,
        normalisation=normalisation,
        device="cpu",
        batch_size=120,
    )
    return fresh.reloading(prepare(options), options)


def look(make: Callable[[], nn.Module]) -> set[str]:
    """Flags of a model from a look at 32 images."""
    return ids(flags.from_probe(probes.probe(make().eval(), *problem())))


def cases() -> list[Case]:
    models = {
        "untrained network": networks.Honest,
        "untrained network with BatchNorm": networks.HonestWithBatchNorm,
        "log-softmax outputs": networks.LogSoftmax,
        "logits / 10,000": networks.SmallLogits,
        "input noise of 1e-7": networks.FaintNoise,
    }
    return [
        *(case("honest", name, (), partial(look, make)) for name, make in models.items()),
        case("honest", "trained network, four attacks, diagnosis", (), _trained),
        case("honest", "trained network in L2", (), _trained_in_l2),
    ]


def _trained() -> set[str]:
    job = trained("fgsm,pgd-20,cw-inf,apgd-ce-t")
    return ids(evaluation.diagnosed(job, evaluation.execute(job)).flags)


def _trained_in_l2() -> set[str]:
    return ids(evaluation.execute(trained("fgsm,pgd-20", "L2", "0.5")).flags)
