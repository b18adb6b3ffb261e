"""Diagnosis: expensive checks that attacks converge, and succeed where every attack must succeed.

They run the evaluation's own PGD and judge on up to 100 examples that are classified correctly
(Carlini et al. 2019, section 5; Pintor et al. 2022). Deterministic for a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import torch
from torch import Tensor

from robust_eval import attacks
from robust_eval.core import norms, seeds
from robust_eval.core.logits import margin
from robust_eval.core.text import duration
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import AttackSpec, Cost
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.judge import judge
from robust_eval.evaluation.planning.cost import measure_speed
from robust_eval.evaluation.worker import Worker
from robust_eval.results import DiagnosisRecord

EXAMPLES = 100
STEPS = 20
RESTARTS = 4
NOISE = 100
"""Draws of noise for each example that is still robust."""
_UNBOUNDED_STEPS = 50
_UNBOUNDED_STEP = Fraction(1, 10)


def cost() -> Cost:
    """Passes per example if nothing breaks early, including the judge's."""
    steps = STEPS + 2 * STEPS + RESTARTS * STEPS + 2 * STEPS + 2 * _UNBOUNDED_STEPS
    judgements = 1 + 1 + RESTARTS + 2 + 2
    return Cost(steps + judgements + NOISE, steps)


def cost_text(job: Job) -> str:
    """Upper bound of a diagnosis: examples, passes and time, from a few timed batches."""
    n, passes = min(EXAMPLES, job.request.data.n), cost()
    seconds = measure_speed(job.model, job.x_NCHW[: min(n, 64)]).seconds(passes, n)
    return (
        f"{n} examples, up to {passes.forwards} forward and {passes.backwards} backward passes each, at most "
        f"{duration(seconds)}"
    )


def diagnose_job(job: Job) -> DiagnosisRecord:
    """Diagnose a job's model under its threat model and seed."""
    return diagnose(job.worker(), seed=job.request.seed)


@dataclass
class _Session:
    """The examples that are diagnosed, with the worker that attacks them."""

    worker: Worker
    x: Tensor
    y: Tensor
    seed: int

    def attack(self, name: str, spec: AttackSpec, threat: ThreatModel, left: Tensor) -> tuple[Tensor, Tensor]:
        """Attack the examples of the mask ``left``: (adversarial images, broken (N,) bool)."""
        x, y = self.x[left], self.y[left]
        broken = torch.zeros_like(left)
        if not len(x):
            return x, broken
        adv = self.worker.search(spec, x, y, threat, seeds.derive(self.seed, "diagnose", name))
        broken[left] = self.judged(x, y, adv, threat)
        return adv, broken

    def judged(self, x: Tensor, y: Tensor, adv: Tensor, threat: ThreatModel) -> Tensor:
        verdicts = judge(self.worker.model, x, y, adv, range(len(x)), threat)
        return ~torch.from_numpy(verdicts.robust).to(x.device)


def diagnose(worker: Worker, *, seed: int = 0, examples: int = EXAMPLES) -> DiagnosisRecord:
    """Diagnose a worker's model."""
    worker.attack_copy.reset_counts()
    x, y = _right(worker, examples)
    if not len(x):
        # Some networks fail on an empty batch.
        return DiagnosisRecord(**dict.fromkeys(DiagnosisRecord.model_fields, 0))
    session, every = _Session(worker, x, y, seed), torch.ones(len(x), dtype=torch.bool, device=x.device)
    threat = worker.threat
    adv, broken = session.attack("pgd", _pgd(), threat, every)
    _, more = session.attack("steps", _pgd(steps=2 * STEPS), threat, every)
    restarts = broken.clone()
    for number in range(RESTARTS):
        restarts |= session.attack(f"restart {number}", _pgd(), threat, ~restarts)[1]
    _, short = session.attack("short", _pgd(scale=Fraction(1, 4)), threat, every)
    _, long = session.attack("long", _pgd(scale=Fraction(4)), threat, every)
    noise = _noise(session, threat, ~(restarts | more | short | long))
    return DiagnosisRecord(
        images=len(x),
        broken=int(broken.sum()),
        broken_more_steps=int(more.sum()),
        lost_more_steps=int((broken & ~more).sum()),
        broken_restarts=int(restarts.sum()),
        broken_short_steps=int(short.sum()),
        lost_short_steps=int((broken & ~short).sum()),
        broken_long_steps=int(long.sum()),
        lost_long_steps=int((broken & ~long).sum()),
        not_rising=_not_rising(session, adv),
        unbounded_left=int((~_unbounded(session, every)).sum()),
        noise_alone=int(noise.sum()),
        forwards=worker.attack_copy.forwards,
        backwards=worker.attack_copy.backwards,
    )


@torch.no_grad()
def _right(worker: Worker, examples: int) -> tuple[Tensor, Tensor]:
    """The first examples that the model classifies correctly, among the first 2 * ``examples``."""
    x, y = worker.x[: 2 * examples], worker.y[: 2 * examples]
    right = (worker.model(x).argmax(1) == y).nonzero().flatten()[:examples]
    return x[right], y[right]


def _pgd(steps: int = STEPS, scale: Fraction = Fraction(1)) -> AttackSpec:
    table = attacks.parse("pgd", {})
    sizes = {name: str(getattr(table, name) * scale) for name in ("step_linf", "step_l2")}
    return attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps, **sizes})


@torch.no_grad()
def _not_rising(session: _Session, adv: Tensor) -> int:
    """Number of examples whose margin the attack did not lower; broken ones are lower by definition."""
    before, after = (margin(session.worker.model(images), session.y) for images in (session.x, adv))
    return int((after >= before).sum())


def _unbounded(session: _Session, every: Tensor) -> Tensor:
    """Examples (N,) bool that are broken by either loss if every image in the box is allowed."""
    threat = session.worker.threat
    side = isqrt(session.x.shape[1:].numel() - 1) + 1
    unbounded = ThreatModel(threat.norm, Fraction(1) if threat.norm == "Linf" else Fraction(side))
    table = {
        "steps": _UNBOUNDED_STEPS,
        "step_linf": str(_UNBOUNDED_STEP),
        "step_l2": str(_UNBOUNDED_STEP),
    }
    broken = torch.zeros_like(every)
    for family in ("cw-linf", "pgd"):
        spec = attacks.spec(family, family, table)
        broken |= session.attack(f"unbounded {family}", spec, unbounded, ~broken)[1]
    return broken


@torch.no_grad()
def _noise(session: _Session, threat: ThreatModel, left: Tensor) -> Tensor:
    """Examples of the mask ``left`` broken by random signs (Linf) or directions (L2) of size epsilon."""
    generator = torch.Generator().manual_seed(seeds.derive(session.seed, "diagnose", "noise"))
    broken = torch.zeros_like(left)
    for _ in range(NOISE):
        chosen = left & ~broken
        x, y = session.x[chosen], session.y[chosen]
        if not len(x):
            break
        delta = torch.randn(x.shape, generator=generator).to(x)
        if threat.norm == "Linf":
            delta = threat.radius * delta.sign()
        else:
            length = norms.norm_per_image(delta, "L2").view(-1, *[1] * (delta.dim() - 1))
            delta = threat.radius * delta / length
        adv = (x + delta).clamp(0, 1)
        hit = session.worker.model(adv).argmax(1) != y
        chosen[chosen.clone()] = hit
        if hit.any():
            broken[chosen] = session.judged(x[hit], y[hit], adv[hit], threat)
    return broken
