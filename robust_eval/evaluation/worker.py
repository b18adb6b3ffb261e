"""One loaded model with its data, doing one work unit at a time."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core.devices import full_precision
from robust_eval.core.errors import UserError
from robust_eval.core.seeds import seed_everything
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import FLOAT32, AttackSpec, UnitResult, WorkUnit
from robust_eval.evaluation.attack_copy import SAMPLE, AttackCopyConfig
from robust_eval.evaluation.judge import judge, judge_clean
from robust_eval.models.acceleration.frozen_copy import AttackCopy, make_attack_copy


class Worker:
    """Attacks with a frozen copy, judges with the original.

    ``model`` maps [0, 1] pixels to logits. ``x_NCHW`` float32 in [0, 1] and ``y_N`` int64 are the
    whole slice; all three live on one device.
    """

    def __init__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        classes: int,
        search: AttackCopyConfig | None = None,
    ) -> None:
        """``search``: how the copies are called; without it, as is usual for images of this size."""
        full_precision()
        self.model = model.eval()
        self.x, self.y = x_NCHW, y_N
        self.threat, self.classes = threat, classes
        self.how = search or AttackCopyConfig()
        self._attack_copies: dict[str, AttackCopy] = {}

    @property
    def attack_copy(self) -> AttackCopy:
        """The copy that attacks search with in float32."""
        return self.attack_copy_in(FLOAT32)

    def attack_copy_in(self, precision: str) -> AttackCopy:
        """The copy for a precision, made when first asked for."""
        if precision not in self._attack_copies:
            self._attack_copies[precision] = make_attack_copy(
                self.model,
                sample=self.x[:SAMPLE],
                precision=precision,
                tuning=self.how.tunings.get(precision),
            )
        return self._attack_copies[precision]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the copies made so far, in words."""
        return tuple(note for attack_copy in self._attack_copies.values() for note in attack_copy.notes)

    def run(self, unit: WorkUnit) -> UnitResult:
        """Do the unit; the same unit gives the same verdicts, whatever ran before it."""
        start = time.perf_counter()
        seed_everything(unit.seed)
        chosen = torch.tensor(unit.indices, device=self.x.device)
        x, y = self.x[chosen], self.y[chosen]
        if unit.attack is None:
            verdicts = judge_clean(self.model, x, y, unit.indices)
            evidence = np.empty((0, *x.shape[1:]), dtype=np.float32)
            return UnitResult(verdicts, evidence, len(y), 0, time.perf_counter() - start)
        attack_copy = self.attack_copy_in(unit.precision)
        attack_copy.reset_counts()
        adv = self.search(unit.attack, x, y, self.threat, unit.seed, unit.precision)
        verdicts = judge(self.model, x, y, adv, unit.indices, self.threat)
        evidence = adv.cpu().numpy()[~verdicts.robust]
        seconds = time.perf_counter() - start
        return UnitResult(verdicts, evidence, attack_copy.forwards, attack_copy.backwards, seconds)

    def search(
        self,
        attack: AttackSpec,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        seed: int,
        precision: str = FLOAT32,
    ) -> Tensor:
        """What an attack returns for examples that are right without it (N, C, H, W) float32; judge it.

        Raises :class:`UserError` where the attack fails: that says nothing about the model, and its
        images must never count as robust.
        """
        family = attacks.family(attack.family)
        params = attacks.parse(attack.family, attack.params)
        try:
            adv: Tensor = family.search(
                self.attack_copy_in(precision), x_NCHW, y_N, threat, params, classes=self.classes, seed=seed
            )
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{attack.id} failed on a batch of {len(x_NCHW)}: {type(error).__name__}: {error}. "
                "Finished work is kept; robust-eval check may name the cause."
            ) from error
        return adv.detach().float()
