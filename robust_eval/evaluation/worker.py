"""Run units of one loaded model: attack with the attack copy, judge with the original."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core import seeds
from robust_eval.core.devices import full_precision
from robust_eval.core.errors import UserError
from robust_eval.core.float_images import Images
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import FLOAT32, AttackSpec, Ints, UnitResult, WorkUnit
from robust_eval.evaluation.attack_copy import SAMPLE, AttackCopyConfig
from robust_eval.evaluation.checks import repeated_calls
from robust_eval.evaluation.judge import judge, judge_clean
from robust_eval.models.acceleration.frozen_copy import AttackCopy, make_attack_copy
from robust_eval.models.isolation import Isolated

SURVIVORS = 16
"""Robust examples of a unit whose images are kept."""


class Worker:
    """Attacks with a frozen copy of the model, judges with the original.

    ``model`` maps [0, 1] pixels to logits. ``x_NCHW`` float32 in [0, 1] and ``y_N`` int64 are all examples of
    the request; all three are on one device.
    """

    def __init__(
        self,
        model: nn.Module,
        x_NCHW: Images,
        y_N: Tensor,
        threat: ThreatModel,
        classes: int,
        config: AttackCopyConfig | None = None,
    ) -> None:
        """``config``: how the attack copies are called; None: the default for this image size."""
        full_precision()
        self.model = model if isinstance(model, Isolated) else Isolated(model)
        self.model.eval()
        self.x, self.y = x_NCHW, y_N
        self.threat, self.classes = threat, classes
        self.config = config or AttackCopyConfig()
        self._attack_copies: dict[str, AttackCopy] = {}

    @property
    def attack_copy(self) -> AttackCopy:
        """The attack copy in float32."""
        return self.attack_copy_in(FLOAT32)

    def attack_copy_in(self, precision: str) -> AttackCopy:
        """The attack copy in a precision, made at first use."""
        if precision not in self._attack_copies:
            self._attack_copies[precision] = make_attack_copy(
                self.model,
                sample=self.x[:SAMPLE],
                precision=precision,
                tuning=self.config.tunings.get(precision),
            )
        return self._attack_copies[precision]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the attack copies made so far."""
        return tuple(note for attack_copy in self._attack_copies.values() for note in attack_copy.notes)

    def run(self, unit: WorkUnit) -> UnitResult:
        """Run a unit. Its verdicts do not depend on what was run before."""
        start = time.perf_counter()
        seeds.seed_everything(unit.seed)
        self.model.stream.seed(seeds.derive(unit.seed, "judge"))
        chosen = torch.tensor(unit.indices, device=self.x.device)
        x, y = self.x[chosen], self.y[chosen]
        if unit.attack is None:
            verdicts = judge_clean(self.model, x, y, unit.indices)
            evidence = np.empty((0, *x.shape[1:]), dtype=np.float32)
            return UnitResult(verdicts, evidence, len(y), 0, time.perf_counter() - start)
        attack_copy = self.attack_copy_in(unit.precision)
        attack_copy.reset_counts(seeds.derive(unit.seed, "kept calls"))
        attack_copy.stream.seed(seeds.derive(unit.seed, "attack copy"))
        # Copies: an attack that changes its images or labels must not change those that are judged.
        adv = self.search(unit.attack, x.clone(), y.clone(), self.threat, unit.seed, unit.precision)
        passes = attack_copy.forwards, attack_copy.backwards
        calls = list(attack_copy.kept_calls)
        found = [repeated_calls.compare(call, attack_copy) for call in calls]
        if unit.precision == FLOAT32:
            # Logits in bfloat16 differ from those of the judged model.
            found += [repeated_calls.compare(call, self.model, slopes=True) for call in calls]
        verdicts = judge(self.model, x, y, adv, unit.indices, self.threat)
        images = adv.cpu().numpy()
        kept = _sample(np.flatnonzero(verdicts.robust & verdicts.valid), unit.seed)
        return UnitResult(
            verdicts,
            images[~verdicts.robust],
            *passes,
            time.perf_counter() - start,
            survivors=verdicts.indices[kept],
            survivor_images=images[kept],
            difference=repeated_calls.largest(found),
        )

    def search(
        self,
        attack: AttackSpec,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        seed: int,
        precision: str = FLOAT32,
    ) -> Tensor:
        """The images that an attack returns, float32 (N, C, H, W), which have not been judged.

        Raises:
            UserError: if the attack fails. Its images must not count as robust.
        """
        family = attacks.family(attack.family)
        params = attacks.parse(attack.family, attack.params)
        try:
            adv: object = family.search(
                self.attack_copy_in(precision), x_NCHW, y_N, threat, params, classes=self.classes, seed=seed
            )
        except UserError:
            raise
        except Exception as error:
            advice = "Finished work is kept; robust-eval check may show the cause."
            if not attacks.is_own(attack.family):
                advice = f"Correct the attack: {_place(error)}."
            raise UserError(
                f"{attack.id} failed on a batch of {len(x_NCHW)}: {type(error).__name__}: {error}. {advice}"
            ) from error
        if not isinstance(adv, Tensor) or adv.shape != x_NCHW.shape:
            found = tuple(adv.shape) if isinstance(adv, Tensor) else type(adv).__name__
            raise UserError(
                f"{attack.id} returned {found} for images of shape {tuple(x_NCHW.shape)}. Correct the attack."
            )
        return adv.detach().float()


def _place(error: Exception) -> str:
    """Where an error was raised, as a phrase without folders."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _sample(positions: Ints, seed: int) -> Ints:
    """Up to SURVIVORS of the positions, in rising order."""
    return np.sort(np.random.default_rng(seed).permutation(positions)[:SURVIVORS])
