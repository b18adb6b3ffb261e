"""Flags of the model itself, from a look at a few images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from robust_eval.results import FlagRecord
from robust_eval.results.flags.rules import Finding, records

if TYPE_CHECKING:
    from robust_eval.results.flags.figures import NoiseResponse, Probe

REPEAT = 1e-4
BATCH = 1e-4
SECOND_DIFFERENCE = 1e-4
"""Rounding in float32 bends the logits of deep networks by some 1e-6."""
SECOND_DIFFERENCE_SHARE = 0.5
"""Of the change: a jump bends as much as it changes, or more; a smooth network hardly at all."""
BLIND = 0.1
WEAK = 0.1
GRADIENT_REPEAT = 1e-2
GRADIENT_SIGN_ERRORS = 0.25


def from_probe(probe: Probe) -> tuple[FlagRecord, ...]:
    """Flags of the model itself, before any attack."""
    return records(_findings(probe))


def is_random(probe: Probe) -> bool:
    """Whether two passes over the same images differ: nothing else can then be compared."""
    return probe.repeat > REPEAT


def jumps(response: NoiseResponse) -> bool:
    """Whether opposite noise fails to undo what noise did, beyond rounding and curvature."""
    return (
        response.second_difference > SECOND_DIFFERENCE
        and response.second_difference > SECOND_DIFFERENCE_SHARE * response.change
    )


def _findings(probe: Probe) -> Iterator[Finding]:
    # Brings torch, which flags of a result file do without.
    from robust_eval.results.flags.figures import COARSE, FINE

    if probe.nonfinite > 0:
        yield "non-finite-outputs", f"{probe.nonfinite:.1%} of {probe.n} images"
    if probe.training_modules:
        yield "train-mode", f"{probe.training_modules} modules"
    if probe.probabilities:
        yield "probabilities", "non-negative outputs with one sum for all images"
    if probe.one_class:
        yield "collapsed", f"one class for all of {probe.n} images"
    if probe.optimises:
        yield "test-time-optimisation", "the forward pass calls autograd"
    if is_random(probe):
        yield "random-outputs", f"passes differ by {probe.repeat:.1e}"
    elif probe.batch > BATCH:
        yield "batch-dependent", f"batch and single image differ by {probe.batch:.1e}"
    elif jumps(probe.fine) or jumps(probe.coarse):
        size, response = (FINE, probe.fine) if jumps(probe.fine) else (COARSE, probe.coarse)
        yield (
            "discontinuous",
            f"noise of {size:.0e} changes logits by {response.change:.1e} and bends them by "
            f"{response.second_difference:.1e}",
        )
    yield from _gradients(probe)


def _gradients(probe: Probe) -> Iterator[Finding]:
    if probe.no_gradient:
        yield "no-gradients", "no gradient reaches the input"
    elif probe.zero_margin > BLIND:
        yield "no-gradients", f"zero or not finite on {probe.zero_margin:.0%} of {probe.n} images"
    elif probe.zero_ce > BLIND:
        yield "saturated-logits", f"zero on {probe.zero_ce:.0%} of {probe.n} images"
    if probe.weak_margin > WEAK:
        yield "vanishing-gradients", f"{probe.weak_margin:.0%} of {probe.n} images"
    if probe.gradient_repeat > GRADIENT_REPEAT and not is_random(probe):
        yield "random-gradients", f"gradients of one input differ by {probe.gradient_repeat:.0%}"
    if probe.gradient_sign_errors > GRADIENT_SIGN_ERRORS:
        yield "misleading-gradients", f"{probe.gradient_sign_errors:.0%} of {probe.n} images"
