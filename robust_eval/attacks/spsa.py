"""SPSA: gradient-free attack; the gradient is estimated from random antithetic pairs of queries.

"256 samples" are 256 model evaluations, that is 128 pairs, as in the reference implementation
(CleverHans, TensorFlow); two PyTorch ports use 256 pairs. ``cost`` returns the number of queries.
The estimates use logit differences of about 1e-3, which need float32. In a bfloat16 run, only changes of
activations are computed in bfloat16 (``robust_eval/models/acceleration/activation_differences.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

from robust_eval.core.parameters import Between
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
CITATION = "Uesato et al., Adversarial Risk and the Dangers of Evaluating Against Weak Attacks, ICML 2018"
LIBRARY = "robust-eval"


@dataclass(frozen=True, kw_only=True)
class Params:
    """The settings of Wu et al. 2020, section 5.1."""

    iterations: Annotated[int, Between(1, 100_000)] = 100
    samples: Annotated[int, Between(2, 1_000_000)] = 256
    """Model evaluations per gradient estimate; an odd number is rounded down."""
    delta: Annotated[Fraction, Between(Fraction(1, 100_000), Fraction(1, 2))] = Fraction(1, 1000)
    learning_rate: Annotated[Fraction, Between(Fraction(1, 100_000), Fraction(1))] = Fraction(1, 100)


def needs_float32(params: Params) -> bool:
    """True: margin differences over a step of 0.001 are lost in lower precision."""
    return True


def cost(params: Params, classes: int) -> Cost:
    # One more per iteration, to check whether the image is broken.
    return Cost(params.iterations * (2 * (params.samples // 2) + 1), 0)


def search(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel,
    params: Params,
    *,
    classes: int,
    seed: int,
) -> Tensor:
    """Adversarial images (N, C, H, W); see :mod:`robust_eval.attacks` for the contract."""
    from robust_eval.attacks import _spsa
    from robust_eval.models.acceleration.attack_model import AttackCopy

    settings = _spsa.SPSASettings(
        norm=threat.norm,
        radius=threat.radius,
        iterations=params.iterations,
        samples=params.samples,
        delta=float(params.delta),
        learning_rate=float(params.learning_rate),
    )
    step_logits = model.logits_at_steps if isinstance(model, AttackCopy) else None
    return _spsa.attack(model, x_NCHW, y_N, settings, seed=seed, step_logits=step_logits)
