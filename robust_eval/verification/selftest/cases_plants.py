"""Cases with planted models that hide adversarial images: each is attacked and judged as in any other run."""

from __future__ import annotations

from functools import partial

from robust_eval.evaluation.in_memory import evaluate
from robust_eval.verification.selftest.case import Case, flag_ids, make_case
from robust_eval.verification.selftest.deceptive_models import deceptive_models
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.plant import Plant
from robust_eval.verification.selftest.published_defenses import published_defenses

EXAMPLES = 64
SUITE = "fgsm,pgd-20"
ALLOWED = ("too-few-examples",)
"""Raised by every run on so few examples."""


def plants() -> list[Plant]:
    """All planted models that are built on a network."""
    return [*published_defenses(), *deceptive_models()]


def cases() -> list[Case]:
    return [plant_case(plant) for plant in plants() if not plant.slow]


def plant_case(plant: Plant) -> Case:
    """The case of a planted model."""
    return make_case(plant.group, plant.name, plant.expected, partial(_run, plant), *plant.allowed, *ALLOWED)


def _run(plant: Plant) -> set[str]:
    x_NCHW, y_N = (tensor[:EXAMPLES] for tensor in digit_images())
    return flag_ids(evaluate(plant.build(plain_network()), x_NCHW, y_N, THREAT, SUITE).flags)
