"""The attack contract, checked for the attacks of all columns (new ones are found automatically)."""

from __future__ import annotations

from functools import cache
from typing import cast

import pytest
import torch

from robust_eval import attacks
from robust_eval.core import discovery
from robust_eval.core.threat import NORMS, Norm, parse_threat
from robust_eval.core.types import AttackSpec
from robust_eval.evaluation import attack_contract
from robust_eval.evaluation.attack_contract import problem, run
from robust_eval.evaluation.planning import suites


@cache
def specs() -> tuple[AttackSpec, ...]:
    """The distinct attacks of all columns."""
    found: dict[str, AttackSpec] = {}
    for name in discovery.config_ids("columns"):
        for spec in suites.column(name).attacks:
            found.setdefault(f"{spec.family} {spec.params}", spec)
    return tuple(found.values())


def names(value: object) -> str:
    return value.id if isinstance(value, AttackSpec) else str(value)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spec", specs(), ids=names)
def test_adversarial_images_are_in_ball_and_box_and_inputs_are_unchanged(
    spec: AttackSpec, norm: Norm
) -> None:
    threat = parse_threat(norm, "0.2" if norm == "Linf" else "1.5")
    if spec.params.get("phase") == "square":
        # It breaks every image and ends early, instead of after 5,000 queries.
        threat = parse_threat(norm, "0.6" if norm == "Linf" else "3.5")
    assert attack_contract.images(spec, threat) == ""


@pytest.mark.parametrize(
    "spec",
    [pytest.param(spec, marks=[pytest.mark.slow] if names(spec) == "square" else []) for spec in specs()],
    ids=names,
)
def test_an_attack_without_success_has_the_declared_cost(spec: AttackSpec) -> None:
    assert attack_contract.declared_cost(spec, parse_threat("Linf", "1e-6")) == ""


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spec", specs(), ids=names)
def test_no_images_and_one_image(spec: AttackSpec, norm: Norm) -> None:
    assert attack_contract.batch_sizes(spec, parse_threat(norm, "0.9")) == ""


@pytest.mark.parametrize("spec", specs(), ids=names)
def test_the_result_depends_only_on_the_seed(spec: AttackSpec) -> None:
    model, x, y = problem()
    threat = parse_threat("Linf", "0.05")
    if spec.params.get("phase") == "square":
        threat = parse_threat("Linf", "0.9")
    assert attack_contract.seed_decides(spec, threat) == ""
    first = run(spec, model, x, y, threat, seed=1)
    other = run(spec, model, x, y, threat, seed=2)
    found = bool((first != x).any())
    if spec.family == "fgsm" or spec.params.get("phase") == "fab-t" or not found:
        assert torch.equal(other, first)
    else:
        assert not torch.equal(other, first)


def test_every_family_is_in_a_column_and_has_its_metadata() -> None:
    assert {spec.family for spec in specs()} == set(attacks.families())
    for name in attacks.families():
        family = attacks.family(name)
        assert attack_contract.interface(name) == ""
        distribution, version = attacks.library(name).split()
        assert distribution == family.LIBRARY
        assert version[0].isdigit()


def test_parameters_are_read_back_from_plain_values() -> None:
    for spec in specs():
        assert attacks.spec(spec.id, spec.family, spec.params) == spec
        assert all(isinstance(value, int | str) for value in spec.params.values())
        assert cast(object, attacks.parse(spec.family, spec.params)) == attacks.parse(
            spec.family, spec.params
        )
