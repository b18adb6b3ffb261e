"""Attack robust examples again, with a seed chosen after the result was published."""

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

# Another random start may break an image that the first did not: in twelve audits of correct results
# (digits, PGD-20 and AutoAttack, 167 to 263 robust examples each) 0 to 1.2% were broken. An audit fails if
# the lower end of the 95% Wilson interval is above this share.
LIMIT = 0.02


def audit(job: Job, result: EvalResult, n: int, seed: int, suite: str | None = None) -> AuditRecord:
    """Re-attack ``n`` robust examples of the worst case, chosen by ``seed``.

    ``job`` holds the result's request, model and data; ``suite`` replaces the attacks of the result. Each
    column attacks the examples that the columns before it did not break. The cost is about n / (number of
    robust examples) of the evaluation's. Raises :class:`UserError` if there is no robust example, or no
    attack.
    """
    if n < 1:
        raise UserError(f"--audit must be at least 1, got {n}.")
    robust = np.flatnonzero(parse_bits(result.worst_case.robust_bits))
    if not len(robust):
        raise UserError("There is nothing to audit: no example is robust. Leave out --audit.")
    chosen = np.random.default_rng(seed).permutation(robust)[:n]
    chosen_suite = _current(job.request.suite) if suite is None else suites.load(suite)
    families = {attack.family for column in chosen_suite.columns for attack in column.attacks}
    if not families:
        raise UserError(
            f"Suite {chosen_suite.name} has no attack to audit with. Choose another with --audit-suite."
        )
    libraries = tuple((name, attacks.library(name)) for name in sorted(families))
    request = replace(job.request, suite=chosen_suite, seed=seed, libraries=libraries)
    worker = replace(job, request=request).worker()
    start, left, forwards, backwards = time.perf_counter(), sorted(chosen.tolist()), 0, 0
    for column in chosen_suite.columns:
        for stage in range(len(column.attacks)):
            for unit in stage_units(request, column, stage, left):
                done = worker.run(unit)
                broken = set(done.verdicts.indices[~done.verdicts.robust].tolist())
                left = [index for index in left if index not in broken]
                forwards, backwards = forwards + done.forwards, backwards + done.backwards
    newly_broken = sorted(set(chosen.tolist()) - set(left))
    return AuditRecord(
        suite=chosen_suite.name,
        seed=seed,
        n=len(chosen),
        broken=tuple(newly_broken),
        limit=LIMIT,
        passed=wilson(len(newly_broken), len(chosen))[0] <= LIMIT,
        forwards=forwards,
        backwards=backwards,
        seconds=round(time.perf_counter() - start, 3),
    )


def _current(suite: Suite) -> Suite:
    """The recorded suite; a :class:`UserError` if an attack has another version in this release."""
    for column in suite.columns:
        for attack in column.attacks:
            _check_version(attack)
    return suite


def _check_version(attack: AttackSpec) -> None:
    version = attacks.family(attack.family).VERSION
    if version != attack.version:
        raise UserError(
            f"{attack.id} is version {attack.version} in the result and version {version} in this release. "
            "Audit with the attacks of this release: --audit-suite full."
        )
