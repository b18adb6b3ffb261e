"""Figures just below a threshold raise no flag, figures just above it do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robust_eval.results import DiagnosisRecord, SecondJudgementRecord, flags
from robust_eval.results.flags.figures import GradientCosines, NoiseResponse, Probe, SideEffects
from robust_eval.results.flags.from_columns import clean_accuracy_floor
from robust_eval.verification.selftest.planted_results import column

NO_PROBE_FLAGS = Probe(
    n=32,
    nonfinite=0.0,
    training_modules=0,
    probabilities=False,
    one_class=False,
    optimises=False,
    repeat=0.0,
    batch=1e-6,
    batch_size=32,
    output_type="float32",
    fine=NoiseResponse(5e-5, 1e-6),
    coarse=NoiseResponse(5e-4, 1e-5),
    no_gradient=False,
    zero_ce=0.0,
    zero_margin=0.0,
    weak_margin=0.0,
    gradient_repeat=0.0,
    gradient_sign_errors=0.0,
    decoys=0.0,
    effects=SideEffects(),
    cosine=GradientCosines(),
)
NO_DIAGNOSIS_FLAGS = DiagnosisRecord(
    images=100,
    broken=40,
    broken_more_steps=40,
    broken_restarts=40,
    broken_short_steps=40,
    broken_long_steps=40,
    not_rising=0,
    unbounded_left=0,
    noise_alone=0,
    forwards=0,
    backwards=0,
)


def probed(**figures: Any) -> set[str]:
    return {flag.id for flag in flags.from_probe(replace(NO_PROBE_FLAGS, **figures))}


def judged_again(**figures: Any) -> set[str]:
    record = SecondJudgementRecord(images=10, survivors=4, batch_sizes=(10, 3), clean_logits=1e-6)
    return {flag.id for flag in flags.from_second_judgement(record.model_copy(update=figures))}


def diagnosed(**figures: Any) -> set[str]:
    return {flag.id for flag in flags.from_diagnosis(NO_DIAGNOSIS_FLAGS.model_copy(update=figures))}


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [
        ("non-finite-outputs", {}, {"nonfinite": 0.03}),
        ("train-mode", {}, {"training_modules": 1}),
        ("probabilities", {}, {"probabilities": True}),
        ("collapsed", {}, {"one_class": True}),
        ("test-time-optimisation", {}, {"optimises": True}),
        ("random-outputs", {"repeat": 9e-5}, {"repeat": 1.1e-4}),
        ("batch-dependent", {"batch": 9e-5}, {"batch": float("inf")}),
        ("discontinuous", {"fine": NoiseResponse(1, 0.4)}, {"fine": NoiseResponse(2e-3, 2e-3)}),
        ("discontinuous", {"coarse": NoiseResponse(9e-5, 9e-5)}, {"coarse": NoiseResponse(2e-3, 1.1e-3)}),
        ("writes-into-input", {}, {"effects": SideEffects(writes=True)}),
        ("seeds-generators", {}, {"effects": SideEffects(seeds=("torch",))}),
        ("opens-files", {}, {"effects": SideEffects(opens=("files",))}),
        ("decoy-outputs", {"decoys": 0.09}, {"decoys": 0.11}),
        ("remembers-images", {"effects": SideEffects(memory=9e-5)}, {"effects": SideEffects(memory=1.1e-4)}),
        ("no-gradients", {"zero_margin": 0.09}, {"zero_margin": 0.12}),
        ("no-gradients", {}, {"no_gradient": True, "zero_margin": 1.0}),
        ("saturated-logits", {"zero_ce": 0.09}, {"zero_ce": 0.12}),
        ("vanishing-gradients", {"weak_margin": 0.09}, {"weak_margin": 0.12}),
        ("random-gradients", {"gradient_repeat": 0.009}, {"gradient_repeat": 0.011}),
        ("misleading-gradients", {"gradient_sign_errors": 0.24}, {"gradient_sign_errors": 0.27}),
        ("misleading-gradients", {"cosine": GradientCosines(0.91)}, {"cosine": GradientCosines(0.89)}),
        ("misleading-gradients", {"cosine": GradientCosines(ball=0.91)}, {"cosine": GradientCosines(ball=0)}),
        (
            "misleading-gradients",
            {"cosine": GradientCosines(path=0.91)},
            {"cosine": GradientCosines(path=-1)},
        ),
        (
            "misleading-gradients",
            {"cosine": GradientCosines(lowest_image=0.61)},
            {"cosine": GradientCosines(lowest_image=0.59)},
        ),
        (
            "misleading-gradients",
            {"cosine": GradientCosines(batch=0.91)},
            {"cosine": GradientCosines(batch=0)},
        ),
    ],
)
def test_thresholds_of_probes(name: str, below: dict[str, Any], above: dict[str, Any]) -> None:
    assert probed(**below) == set()
    assert probed(**above) == {name}


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [
        ("more-steps-help", {"broken_more_steps": 48}, {"broken_more_steps": 49}),
        ("more-restarts-help", {"broken_restarts": 48}, {"broken_restarts": 49}),
        ("step-size-sensitive", {"broken_short_steps": 48}, {"broken_short_steps": 49}),
        ("step-size-sensitive", {"broken_short_steps": 0}, {"broken_long_steps": 49}),
        ("loss-not-rising", {"not_rising": 10}, {"not_rising": 11}),
        ("unbounded-attack-fails", {"unbounded_left": 2}, {"unbounded_left": 3}),
        ("noise-beats-gradients", {"noise_alone": 2}, {"noise_alone": 3}),
    ],
)
def test_thresholds_of_a_diagnosis(name: str, below: dict[str, Any], above: dict[str, Any]) -> None:
    assert diagnosed(**below) == set()
    assert diagnosed(**above) == {name}


def test_the_lowest_cosine_is_shown_with_the_place() -> None:
    cosine = GradientCosines(images=0.8, ball=0.7, path=0.75, batch=0.214, batch_size=50)
    (found,) = flags.from_probe(replace(NO_PROBE_FLAGS, cosine=cosine))
    assert found.figure == "cosine 0.21 with finite differences in batches of 50"
    (found,) = flags.from_probe(replace(NO_PROBE_FLAGS, cosine=replace(cosine, batch=0.9, lowest_image=0)))
    assert found.figure == "cosine 0.70 with finite differences at random points of the ball"


def test_jumps_disturb_finite_differences() -> None:
    jumps = {"fine": NoiseResponse(2e-3, 2e-3)}
    assert probed(**jumps, cosine=GradientCosines(images=0.51, lowest_image=0)) == {"discontinuous"}
    assert probed(**jumps, cosine=GradientCosines(images=0.49)) == {"discontinuous", "misleading-gradients"}


def test_finite_differences_of_changing_outputs_mean_nothing() -> None:
    low = GradientCosines(images=0.1)
    assert probed(cosine=low, repeat=1.0) == {"random-outputs"}
    assert probed(cosine=low, batch=1.0) == {"batch-dependent"}
    assert probed(cosine=low, nonfinite=0.1) == {"non-finite-outputs"}
    assert probed(cosine=low, zero_margin=1.0) == {"no-gradients"}


def test_with_few_examples_a_larger_share_is_needed() -> None:
    few = {"images": 20, "broken": 8, "broken_restarts": 8, "broken_short_steps": 8, "broken_long_steps": 8}
    assert diagnosed(**few, broken_more_steps=13) == set()
    assert diagnosed(**few, broken_more_steps=14) == {"more-steps-help"}


def test_impossible_counts_are_not_an_error() -> None:
    assert "loss-not-rising" in diagnosed(images=5, not_rising=9, unbounded_left=7)


def test_examples_that_only_the_usual_steps_break_widen_the_interval() -> None:
    assert diagnosed(broken_more_steps=49, lost_more_steps=0) == {"more-steps-help"}
    assert diagnosed(broken_more_steps=49, lost_more_steps=3) == set()
    assert diagnosed(broken_short_steps=49, lost_short_steps=3) == set()
    assert diagnosed(broken_long_steps=49, lost_long_steps=3) == set()
    # Files of earlier versions lack this number; an attack that breaks fewer is no gain.
    assert diagnosed(broken_more_steps=0, broken_short_steps=0) == set()


def test_a_gain_is_shown_with_its_interval() -> None:
    (found,) = flags.from_diagnosis(NO_DIAGNOSIS_FLAGS.model_copy(update={"broken_more_steps": 60}))
    expected = "PGD-20 breaks 40 of 100, PGD-40 60 (gain 20.0%, 95% interval 11.4% to 27.8%)"
    assert found.figure == expected


@pytest.mark.parametrize(
    ("norm", "reach", "expected"),
    [
        ("Linf", {"fgsm": 1.0, "pgd-20": 0.91}, set()),
        ("Linf", {"fgsm": 1.0, "pgd-20": 0.89}, {"budget-unused"}),
        ("Linf", {"pgd-20": float("nan")}, {"budget-unused"}),
        ("Linf", {"aa": 0.3, "spsa": 0.3}, set()),
        ("L2", {"pgd-20": 0.51}, set()),
        ("L2", {"pgd-20": 0.49}, {"budget-unused"}),
    ],
)
def test_thresholds_of_perturbation_size(norm: Any, reach: dict[str, float], expected: set[str]) -> None:
    assert {flag.id for flag in flags.from_perturbation_size(reach, norm)} == expected


@pytest.mark.parametrize(
    ("after", "search", "expected"),
    [
        (1e-5, 1e-5, set()),
        (1e-5, None, set()),
        (2e-4, 1e-5, {"changed-during-run"}),
        (0.0, 2e-3, {"search-copy-differs"}),
        (float("nan"), float("inf"), {"changed-during-run", "search-copy-differs"}),
    ],
)
def test_thresholds_of_changes(after: float, search: float | None, expected: set[str]) -> None:
    assert {flag.id for flag in flags.from_changes(after, search)} == expected


def test_the_floor_of_clean_accuracy_depends_on_the_number_of_classes() -> None:
    assert clean_accuracy_floor(2) == pytest.approx(0.6)
    assert clean_accuracy_floor(10) == pytest.approx(0.2)
    assert clean_accuracy_floor(100) == pytest.approx(0.02)


def test_the_threshold_of_the_interval() -> None:
    """At 50%, 360 examples (the digits' test set) are enough and 250 are not."""
    for n, expected in ((360, set[str]()), (250, {"too-few-examples"})):
        half = column(np.arange(n) < n // 2)
        assert {flag.id for flag in flags.from_columns({"clean": half}, 10)} == expected


@pytest.mark.parametrize(
    "figures",
    [
        {"broken_differ": 1},
        {"survivors_differ": 1},
        {"clean_logits": 1.1e-4},
        {"problem": "no fresh process could be run"},
    ],
)
def test_thresholds_of_a_second_judgement(figures: dict[str, Any]) -> None:
    assert judged_again() == judged_again(clean_logits=9e-5) == set()
    assert judged_again(**figures) == {"fresh-model-disagrees"}
    assert flags.from_second_judgement(None) == ()
