"""Flags raised by the probes of a model, before any attack."""

from __future__ import annotations

from collections.abc import Iterator

from robust_eval.results import FlagRecord
from robust_eval.results.flags.figures import COARSE, FINE, NoiseResponse, Probe
from robust_eval.results.flags.rule import Finding
from robust_eval.results.flags.rules import records

RANDOM_OUTPUTS = "random-outputs"
RANDOM_GRADIENTS = "random-gradients"

REPEAT = 1e-4
BATCH = 1e-4
SECOND_DIFFERENCE = 1e-4
"""Float32 rounding contributes about 1e-6 in deep networks."""
SECOND_DIFFERENCE_SHARE = 0.5
"""As a fraction of the change: about 1 or more for a discontinuity, close to 0 for a smooth network."""
MEMORY = 1e-4
CHANGE_IN_NEXT_CALL = 0.25
"""0.8 or more for unmodified networks, 0.01 for planted memories."""
ZERO_GRADIENT = 0.1
WEAK_GRADIENT = 0.1
GRADIENT_REPEAT = 1e-2
GRADIENT_SIGN_ERRORS = 0.25
DECOYS = 0.1
COSINE = 0.9
IMAGE_COSINE = 0.6
"""For the worst image: a cosine of few directions."""
JUMPING_COSINE = 0.5
"""For discontinuous models, whose jumps disturb finite differences although attacks may succeed (BPDA)."""


def from_probe(probe: Probe) -> tuple[FlagRecord, ...]:
    """Flags raised by the figures of :class:`~robust_eval.results.flags.figures.Probe`."""
    return records(_findings(probe))


def is_random(probe: Probe) -> bool:
    """Whether forward passes over the same images differ; other comparisons are then meaningless."""
    return probe.repeat > REPEAT


def has_random_gradients(probe: Probe) -> bool:
    """Whether gradients of the same images differ."""
    return probe.gradient_repeat > GRADIENT_REPEAT


def is_discontinuous(response: NoiseResponse) -> bool:
    """Whether the second difference exceeds what rounding and curvature explain."""
    return (
        response.second_difference > SECOND_DIFFERENCE
        and response.second_difference > SECOND_DIFFERENCE_SHARE * response.change
    )


def _findings(probe: Probe) -> Iterator[Finding]:
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
        yield RANDOM_OUTPUTS, f"passes differ by {probe.repeat:.1e}"
    elif probe.batch > BATCH:
        figure = f"a batch of {probe.batch_size} and single images differ by {probe.batch:.1e}"
        figure += "" if probe.output_type == "float32" else f", in {probe.output_type}"
        yield "batch-dependent", figure
    elif is_discontinuous(probe.fine) or is_discontinuous(probe.coarse):
        size, response = (FINE, probe.fine) if is_discontinuous(probe.fine) else (COARSE, probe.coarse)
        yield (
            "discontinuous",
            f"noise of {size:.0e} changes logits by {response.change:.1e}, second difference "
            f"{response.second_difference:.1e}",
        )
    yield from _side_effects(probe)
    yield from _gradients(probe)


def _side_effects(probe: Probe) -> Iterator[Finding]:
    effects = probe.effects
    if effects.writes:
        yield "writes-into-input", "the images are changed by a forward pass"
    if effects.seeds:
        yield "seeds-generators", f"of {', '.join(effects.seeds)}"
    if effects.opens:
        yield "opens-files", ", ".join(effects.opens)
    if is_random(probe):
        return
    if effects.memory > MEMORY:
        yield "remembers-images", f"logits differ by {effects.memory:.1e} after near images were shown"
    elif effects.change_in_next_call < CHANGE_IN_NEXT_CALL:
        share = effects.change_in_next_call
        yield "remembers-images", f"{share:.0%} of the change to a near image is left in the next call"


def _gradients(probe: Probe) -> Iterator[Finding]:
    if probe.no_gradient:
        yield "no-gradients", "no gradient reaches the input"
    elif probe.zero_margin > ZERO_GRADIENT:
        yield "no-gradients", f"zero or not finite on {probe.zero_margin:.0%} of {probe.n} images"
    else:
        if probe.zero_ce > ZERO_GRADIENT:
            yield "saturated-logits", f"zero, or lost in float32, on {probe.zero_ce:.0%} of {probe.n} images"
        yield from _misleading(probe)
    if probe.decoys > DECOYS:
        yield "decoy-outputs", f"an output that no image reaches is the second one on {probe.decoys:.0%}"
    if probe.weak_margin > WEAK_GRADIENT:
        yield "vanishing-gradients", f"{probe.weak_margin:.0%} of {probe.n} images"
    if has_random_gradients(probe) and not is_random(probe):
        yield RANDOM_GRADIENTS, f"gradients of one input differ by {probe.gradient_repeat:.0%}"


def _misleading(probe: Probe) -> Iterator[Finding]:
    cosine, where = probe.cosine.lowest
    jumps = is_discontinuous(probe.fine) or is_discontinuous(probe.coarse)
    # The outputs of these models change between the passes that are compared.
    changing = is_random(probe) or probe.batch > BATCH or probe.nonfinite > 0
    if cosine < (JUMPING_COSINE if jumps else COSINE) and not changing:
        yield "misleading-gradients", f"cosine {cosine:.2f} with finite differences {where}"
    elif probe.cosine.lowest_image < IMAGE_COSINE and not jumps and not changing:
        figure = f"cosine {probe.cosine.lowest_image:.2f} with finite differences at one of the images"
        yield "misleading-gradients", figure
    elif probe.gradient_sign_errors > GRADIENT_SIGN_ERRORS:
        share = f"{probe.gradient_sign_errors:.0%} of {probe.n} images"
        yield "misleading-gradients", f"a step against the sign does not reduce the margin of {share}"
