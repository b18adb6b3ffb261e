"""Rows of a plausible board, made without attacks: verdicts come from a random model of robustness."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from robust_eval import evaluate
from robust_eval.core.statistics import wilson
from robust_eval.core.verdict_bits import bits_text
from robust_eval.leaderboard.row import Row
from robust_eval.results import AttackRecord, ColumnRecord, EvalResult, FlagRecord, WorstCase
from support.known_models import linear_problem

# Column -> (title, strength of the attack); each attack breaks all examples that the previous one breaks.
COLUMNS = {
    "clean": ("Clean", 0.0),
    "fgsm": ("FGSM", 1.0),
    "pgd-20": ("PGD-20", 1.22),
    "cw-inf": ("CW-inf", 1.28),
    "aa": ("AutoAttack", 1.36),
}
STRENGTHS = {"at": 1.5, "at-awp": 1.72, "trades": 1.58, "trades-awp": 1.76, "fgsm-rs": 1.22, "other": 1.45}


def template() -> EvalResult:
    """A real result, from which all fields other than the numbers are taken."""
    model, x, y = linear_problem(n=20)
    return evaluate(model, x, y, "Linf 0.02", suite="fgsm", name="linear.pt")


# More than eight parameters: tests set single fields of a result and keep the defaults of the others.
def result(
    base: EvalResult,
    recipe: str,
    *,
    strength: float | None = None,
    n: int = 400,
    eps: str = "0.1",
    seed: int = 0,
    file: str = "best.pt",
    flags: tuple[FlagRecord, ...] = (),
    **changes: Any,
) -> EvalResult:
    """A result of a recipe. An example's difficulty is shared by all models, plus noise of each model."""
    shared = np.random.default_rng(7).gumbel(0.0, 0.45, n)
    own = np.random.default_rng([seed, *recipe.encode()]).normal(0, 0.16, n)
    power = (STRENGTHS.get(recipe, 1.4) if strength is None else strength) + 0.2
    scale = float(eps) / 0.1
    margins = power - shared - own
    robust = {name: margins > attack_strength * scale for name, (_, attack_strength) in COLUMNS.items()}
    clean = robust["clean"]
    columns = {name: _column(name, bits & clean, clean) for name, bits in robust.items()}
    worst = robust["aa"] & clean
    if changes.get("status") == "partial":
        columns = {name: column for name, column in columns.items() if name not in changes["missing"]}
        worst = np.logical_and.reduce([robust[name] for name in columns])
    digest = hashlib.sha256(f"{recipe} {seed} {file}".encode()).hexdigest()
    checkpoint = base.checkpoint.model_copy(
        update={
            "name": file,
            "sha256": digest,
            "architecture": base.checkpoint.architecture.model_copy(update={"id": "digits-cnn"}),
            "trained_with": {
                "recipe": _recipe(recipe),
                "provenance": {"seed": seed, "precision": "bf16-mixed"},
                "metrics": {"val_clean": columns["clean"].accuracy},
            },
        }
    )
    return base.model_copy(
        update={
            "checkpoint": checkpoint,
            "data": base.data.model_copy(update={"name": "digits", "split": "test", "n": n}),
            "threat": base.threat.model_copy(update={"eps": eps, "eps_value": float(eps)}),
            "suite": base.suite.model_copy(update={"columns": tuple(COLUMNS), "name": "standard"}),
            "columns": columns,
            "worst_case": WorstCase(**_count(worst, len(columns)), columns=tuple(columns)),
            "flags": flags,
            "command": f"robust-eval run {file} --suite standard --seed {seed}",
            **changes,
        }
    )


def rows(base: EvalResult) -> list[Row]:
    """Two pairs, a row with a warning, and a partial row."""
    warning = FlagRecord(
        id="random-gradients",
        severity="warns",
        figure="gradients of one input differ by 9%",
        threshold="1% of the largest entry",
        advice="Gradients of the same input differ: average them over several draws.",
    )
    named = {name: result(base, name) for name in ("at", "at-awp", "trades", "trades-awp")}
    named["fgsm-rs"] = result(base, "fgsm-rs", flags=(warning,))
    named["other"] = result(base, "other", status="partial", missing=("aa",))
    return [Row(f"results/{name}.json", value) for name, value in named.items()]


def _recipe(name: str) -> Mapping[str, Any]:
    """The record of a recipe in a checkpoint, shortened."""
    awp = name.endswith("-awp")
    return {
        "name": name,
        "title": f"{name} for tests",
        "citation": "https://example.org/paper",
        "objective": {"name": name.removesuffix("-awp")},
        "perturbation": {"kind": "awp" if awp else "none", "gamma": 0.005 if awp else 0.0},
        "optimiser": {"lr": 0.1, "momentum": 0.9},
        "training": {"epochs": 200, "batch_size": 128},
        "selection": {"validation": 100, "every": 1},
    }


def _count(bits: np.ndarray, columns: int = 1) -> dict[str, Any]:
    n, robust = len(bits), int(bits.sum())
    return {
        "accuracy": robust / n,
        "n": n,
        "n_robust": robust,
        "ci95": wilson(robust, n),
        "robust_bits": bits_text(bits),
        "forwards": 20 * n * columns,
        "backwards": 20 * n * columns,
        "seconds": 1.5 * columns,
    }


def _column(name: str, bits: np.ndarray, clean: np.ndarray) -> ColumnRecord:
    attacks = ()
    if name != "clean":
        attack = AttackRecord(
            id=name,
            family=name.partition("-")[0],
            version=1,
            library="adversarial-robustness-toolbox 1.20.1",
            citation="Madry et al., ICLR 2018",
            params={"steps": 20, "step_linf": "0.25"},
            n_attacked=int(clean.sum()),
            n_broken=int(clean.sum() - bits.sum()),
            n_invalid=0,
            forwards=20 * len(bits),
            backwards=20 * len(bits),
            seconds=1.5,
        )
        attacks = (attack,)
    return ColumnRecord(**_count(bits), title=COLUMNS[name][0], n_invalid=0, n_nonfinite=0, attacks=attacks)
