"""Attack survivors once more, with seeds that nobody knew when the row was made."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from robust_eval import attacks
from robust_eval.core.errors import UserError
from robust_eval.core.statistics import wilson
from robust_eval.core.types import AttackSpec, Suite
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.units import stage_units
from robust_eval.results import EvalResult
from robust_eval.results.verification_record import AuditRecord

# A random start may break an image that another start left: in twelve audits of honest rows (digits,
# PGD-20 and AutoAttack, 167 to 263 survivors each) 0 to 1.2% fell. Above this share, by the lower end of
# a 95% Wilson interval, chance is no explanation.
LIMIT = 0.02


def audit(job: Job, result: EvalResult, n: int, seed: int, suite: str | None = None) -> AuditRecord:
    """Re-attack ``n`` survivors of the worst case, chosen by ``seed``, with the result's own suite.

    ``job`` holds the result's request, model and data. ``suite`` names other attacks. Every column
    attacks what is left of the ``n``. Costs about n over the number of survivors of the evaluation.
    """
    if n < 1:
        raise UserError(f"--audit must be at least 1, got {n}.")
    survivors = np.flatnonzero(parse_bits(result.worst_case.robust_bits))
    if not len(survivors):
        raise UserError("There is nothing to audit: no image survived. Leave --audit out.")
    chosen = np.random.default_rng(seed).permutation(survivors)[:n]
    wanted = _current(job.request.suite) if suite is None else suites.load(suite)
    families = {attack.family for column in wanted.columns for attack in column.attacks}
    if not families:
        raise UserError(f"Suite {wanted.name} has no attack to audit with. Name another with --audit-suite.")
    libraries = tuple((name, attacks.library(name)) for name in sorted(families))
    request = replace(job.request, suite=wanted, seed=seed, libraries=libraries)
    worker = replace(job, request=request).worker()
    start, left, forwards, backwards = time.perf_counter(), sorted(chosen.tolist()), 0, 0
    for column in wanted.columns:
        for stage in range(len(column.attacks)):
            for unit in stage_units(request, column, stage, left):
                done = worker.run(unit)
                broken = set(done.verdicts.indices[~done.verdicts.robust].tolist())
                left = [index for index in left if index not in broken]
                forwards, backwards = forwards + done.forwards, backwards + done.backwards
    fell = sorted(set(chosen.tolist()) - set(left))
    return AuditRecord(
        suite=wanted.name,
        seed=seed,
        n=len(chosen),
        fell=tuple(fell),
        limit=LIMIT,
        passed=wilson(len(fell), len(chosen))[0] <= LIMIT,
        forwards=forwards,
        backwards=backwards,
        seconds=round(time.perf_counter() - start, 3),
    )


def _current(suite: Suite) -> Suite:
    """The recorded attacks, if they still mean here what they meant then."""
    for column in suite.columns:
        for attack in column.attacks:
            _check_version(attack)
    return suite


def _check_version(attack: AttackSpec) -> None:
    here = attacks.family(attack.family).VERSION
    if here != attack.version:
        raise UserError(
            f"{attack.id} is version {attack.version} in the result and version {here} here. "
            "Audit with today's attacks: --audit-suite full."
        )
