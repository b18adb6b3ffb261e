"""The contract of an attack, as checks that its author can run: ``robust-eval contract my_attack.py``.

Each check returns '' or what is wrong, as a sentence. They run on a small convolutional network with four
classes and on images that it classifies correctly. They say nothing about the strength of the attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core import norms
from robust_eval.core.errors import UserError
from robust_eval.core.threat import NORMS, ThreatModel, parse_threat
from robust_eval.core.types import AttackSpec, Cost
from robust_eval.models.acceleration.frozen_copy import make_attack_copy

CLASSES = 4
_LARGE = {"Linf": "0.2", "L2": "1.5"}


@dataclass(frozen=True)
class Outcome:
    """The result of one check."""

    check: str
    problem: str
    """'' if the attack passed."""


@cache
def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, CLASSES)]
        model = nn.Sequential(*body).eval().requires_grad_(False)
        # Some pixels are at 0 and at 1.
        x = (torch.rand(4, 2, 5, 5) * 1.6 - 0.3).clamp(0, 1)
    return model, x, model(x).argmax(1)


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """The network, images ``x_NCHW`` (4, 2, 5, 5) with pixels at 0 and at 1, and their labels."""
    model, x, y = _problem()
    return model, x.clone(), y.clone()


def run(
    spec: AttackSpec, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int = 0
) -> Tensor:
    """What the attack returns."""
    params = attacks.parse(spec.family, spec.params)
    return attacks.family(spec.family).search(model, x, y, threat, params, classes=CLASSES, seed=seed)


def outcomes(family: str) -> Iterator[Outcome]:
    """Check an attack with its default parameters; what it cannot run on is left out."""
    first = Outcome("interface", _guarded(partial(interface, family)))
    yield first
    if first.problem:
        return
    spec = attacks.spec(family, family, {})
    for norm in NORMS:
        threat = parse_threat(norm, _LARGE[norm])
        try:
            attacks.refuse_impossible(spec, threat, (5, 5))
        except UserError:
            continue
        for name, check in (("images", images), ("batch sizes", batch_sizes), ("seed", seed_decides)):
            yield Outcome(f"{name}, {norm}", _guarded(partial(check, spec, threat)))
        yield Outcome(f"cost, {norm}", _guarded(partial(declared_cost, spec, parse_threat(norm, "1e-6"))))


def _guarded(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"It failed: {type(error).__name__}: {error}"


def interface(family: str) -> str:
    """VERSION, CITATION, parameters and cost."""
    found: Any = attacks.family(family)
    if type(found.VERSION) is not int or found.VERSION < 1:
        return "VERSION must be a whole number from 1."
    if not isinstance(found.CITATION, str) or len(found.CITATION) <= 10:
        return "CITATION must name a publication or say what the attack is."
    kind: Any = found.Params
    if not is_dataclass(kind) or not vars(kind)["__dataclass_params__"].frozen:
        return "Params must be a frozen dataclass."
    spec = attacks.spec(family, family, {})
    if attacks.spec(family, family, spec.params) != spec or len(spec.params) != len(fields(kind)):
        return "Params must be the same when they are read back from plain values."
    cost = found.cost(attacks.parse(family, {}), CLASSES)
    if not isinstance(cost, Cost) or type(cost.forwards) is not int or type(cost.backwards) is not int:
        return "cost() must return robust_eval.core.types.Cost with two whole numbers."
    return ""


def images(spec: AttackSpec, threat: ThreatModel) -> str:
    """Images in ball and box; model, inputs and gradients unchanged; at least one image broken."""
    model, x, y = problem()
    before_x, before_y = x.clone(), y.clone()
    parameters = [value.clone() for value in model.state_dict().values()]
    adv = run(spec, model, x, y, threat)
    if not isinstance(adv, Tensor) or adv.shape != x.shape or adv.dtype != torch.float32:
        return f"It must return a float32 tensor of shape {tuple(x.shape)}."
    if adv.requires_grad:
        return "The images it returns must not require a gradient: call detach()."
    if not adv.isfinite().all():
        return "It returns NaN or infinity: check its divisions, and the gradients that it uses."
    if not norms.in_box(adv).all():
        return "It returns pixels outside [0, 1]: call clamp(0, 1) last."
    if not norms.in_ball(norms.distance(adv, before_x, threat.norm), threat).all():
        return f"It returns images farther than epsilon = {threat.eps_text} in {threat.norm}: project them."
    if not (torch.equal(x, before_x) and torch.equal(y, before_y)):
        return "It changes the images or labels that it receives: work on a copy."
    if not all(map(torch.equal, model.state_dict().values(), parameters)):
        return "It changes parameters or buffers of the model."
    if any(module.training for module in model.modules()):
        return "It leaves the model in training mode."
    if any(parameter.grad is not None for parameter in model.parameters()):
        return "It leaves gradients in the parameters: use torch.autograd.grad for the images alone."
    if attacks.note(spec, CLASSES) == "" and not (model(adv).argmax(1) != y).any():
        return f"It breaks none of {len(x)} images at epsilon {threat.eps_text}."
    return ""


def declared_cost(spec: AttackSpec, threat: ThreatModel) -> str:
    """As many passes as cost() says, for images that stay robust."""
    model, x, y = problem()
    search = make_attack_copy(model)
    run(spec, search, x[:2], y[:2], threat)
    cost = attacks.cost(spec, CLASSES)
    found, declared = (search.forwards, search.backwards), (2 * cost.forwards, 2 * cost.backwards)
    if found == declared:
        return ""
    return (
        f"cost() says {cost.forwards:,} forward and {cost.backwards:,} backward passes per image, it made "
        f"{found[0] / 2:,g} and {found[1] / 2:,g}."
    )


def batch_sizes(spec: AttackSpec, threat: ThreatModel) -> str:
    """No image and one image."""
    model, x, y = problem()
    for n in (0, 1):
        if run(spec, model, x[:n], y[:n], threat).shape != (n, *x.shape[1:]):
            return f"It must return {n} images for {n} images."
    return ""


def seed_decides(spec: AttackSpec, threat: ThreatModel) -> str:
    """Equal images for equal seeds, whatever torch's global generator."""
    model, x, y = problem()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = run(spec, model, x, y, threat, seed=1)
        torch.manual_seed(2)
        second = run(spec, model, x, y, threat, seed=1)
    if torch.equal(first, second):
        return ""
    return "Its images must depend on the seed only: use torch.Generator().manual_seed(seed)."
