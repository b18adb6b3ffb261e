"""The attack contract, checked for the attacks of all columns (new ones are found automatically)."""

from __future__ import annotations

from functools import cache
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core import discovery, norms
from robust_eval.core.threat import NORMS, Norm, ThreatModel, parse_threat
from robust_eval.core.types import AttackSpec
from robust_eval.evaluation.planning import suites
from robust_eval.models.acceleration.frozen_copy import make_attack_copy

CLASSES = 4


@cache
def specs() -> tuple[AttackSpec, ...]:
    """The distinct attacks of all columns."""
    found: dict[str, AttackSpec] = {}
    for name in discovery.config_ids("columns"):
        for spec in suites.column(name).attacks:
            found.setdefault(f"{spec.family} {spec.params}", spec)
    return tuple(found.values())


@cache
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network and correctly classified images, with some pixels at 0 and at 1."""
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, CLASSES)]
    model = nn.Sequential(*body).eval().requires_grad_(False)
    x = (torch.rand(4, 2, 5, 5) * 1.6 - 0.3).clamp(0, 1)
    return model, x, model(x).argmax(1)


def run(
    spec: AttackSpec, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int = 0
) -> Tensor:
    params = attacks.parse(spec.family, spec.params)
    return attacks.family(spec.family).search(model, x, y, threat, params, classes=CLASSES, seed=seed)


def names(value: object) -> str:
    return value.id if isinstance(value, AttackSpec) else str(value)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spec", specs(), ids=names)
def test_adversarial_images_are_in_ball_and_box_and_inputs_are_unchanged(
    spec: AttackSpec, norm: Norm
) -> None:
    model, x, y = problem()
    threat = parse_threat(norm, "0.2" if norm == "Linf" else "1.5")
    if spec.params.get("phase") == "square":
        # It breaks every image and ends early, instead of after 5,000 queries.
        threat = parse_threat(norm, "0.6" if norm == "Linf" else "3.5")
    before, parameters = x.clone(), [value.clone() for value in model.state_dict().values()]
    adv = run(spec, model, x, y, threat)
    assert adv.shape == x.shape
    assert adv.dtype == torch.float32
    assert not adv.requires_grad
    assert norms.in_ball(norms.distance(adv, x, norm), threat).all()
    assert norms.in_box(adv).all()
    assert torch.equal(x, before)
    assert all(map(torch.equal, model.state_dict().values(), parameters))
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    if attacks.note(spec, CLASSES) == "":
        assert (model(adv).argmax(1) != y).any()


@pytest.mark.parametrize(
    "spec",
    [pytest.param(spec, marks=[pytest.mark.slow] if names(spec) == "square" else []) for spec in specs()],
    ids=names,
)
def test_an_attack_without_success_has_the_declared_cost(spec: AttackSpec) -> None:
    model, x, y = problem()
    search = make_attack_copy(model)
    run(spec, search, x[:2], y[:2], parse_threat("Linf", "1e-6"))
    cost = attacks.cost(spec, CLASSES)
    assert (search.forwards, search.backwards) == (2 * cost.forwards, 2 * cost.backwards)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spec", specs(), ids=names)
def test_no_images_and_one_image(spec: AttackSpec, norm: Norm) -> None:
    model, x, y = problem()
    assert run(spec, model, x[:0], y[:0], parse_threat(norm, "0.1")).shape == (0, *x.shape[1:])
    assert run(spec, model, x[:1], y[:1], parse_threat(norm, "0.9")).shape == (1, *x.shape[1:])


@pytest.mark.parametrize("spec", specs(), ids=names)
def test_the_result_depends_only_on_the_seed(spec: AttackSpec) -> None:
    model, x, y = problem()
    threat = parse_threat("Linf", "0.05")
    if spec.params.get("phase") == "square":
        threat = parse_threat("Linf", "0.9")
    first = run(spec, model, x, y, threat, seed=1)
    torch.rand(7)
    assert torch.equal(run(spec, model, x, y, threat, seed=1), first)
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
        assert family.VERSION >= 1
        assert len(family.CITATION) > 10
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
