"""The adversarial loss of one checkpoint with displaced weights.

g(v) = 1/n sum_i CE(z_{w+v}(x'_i), y_i), and x'_i made anew by PGD on the displaced model (Wu, Xia, Wang 2020,
Eq. 5 and Algorithm 1). Every image meets the same random start at every point and for every
checkpoint, so that differences are the weights', not the noise's. BatchNorm is in eval mode throughout.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict

from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_eval import attacks
from robust_eval.core import seeds
from robust_eval.core.devices import full_precision
from robust_eval.core.types import FLOAT32, CheckpointRef
from robust_eval.landscape.awp.points import Measured, Move, Point, Setting, key
from robust_eval.landscape.directions import Directions, Vector, filter_normalised, tensor_normalised
from robust_eval.landscape.displaced_model import Moving, Step
from robust_eval.models.normalisation import Normalised

# Images on which the search copy is checked at every point.
SAMPLE = 16


class Meter:
    """``x_NCHW`` float32 in [0, 1] and ``y_N`` int64 are the whole slice, on the model's device."""

    def __init__(
        self,
        model: Normalised,
        ref: CheckpointRef,
        x_NCHW: Tensor,
        y_N: Tensor,
        setting: Setting,
        directions: Directions,
    ) -> None:
        full_precision()
        self.moving = Moving(model, ref.name, x_NCHW[:SAMPLE])
        self.ref, self.setting, self.directions = ref, setting, directions
        self.x, self.y = x_NCHW, y_N
        self._scaled: OrderedDict[tuple[str, int], Vector] = OrderedDict()
        self._at_w: dict[int, Tensor] = {}

    def key(self, place: Point) -> str:
        return key(self.setting, self.ref, place)

    def measure(self, place: Point) -> Measured:
        """The loss at ``place``; it depends on nothing that was measured before."""
        start, moving = time.perf_counter(), self.moving
        moving.forwards = moving.backwards = 0
        precision = FLOAT32 if place.checked else self.setting.precision
        random = [self._step(move) for move in place.moves if move.kind != "awp"]
        against = [move.size for move in place.moves if move.kind == "awp"]
        total, right, n = 0.0, 0, len(self.y)
        for first in range(0, n, self.setting.batch_size):
            chosen = slice(first, min(first + self.setting.batch_size, n))
            x, y = self.x[chosen], self.y[chosen]
            shown = self._made_at_w(first, x, y, precision) if against or place.images == "at-w" else None
            steps = [*random, *((self._ascent(shown, y), size) for size in against if shown is not None)]
            moving.place(steps)
            loss, correct = self._loss(shown if place.images == "at-w" else None, first, x, y, precision)
            total, right = total + loss, right + correct
            if not math.isfinite(total):
                break
        return Measured(
            key=self.key(place),
            loss=total / n if math.isfinite(total) else None,
            accuracy=right / n if math.isfinite(total) else 0.0,
            forwards=moving.forwards,
            backwards=moving.backwards,
            seconds=time.perf_counter() - start,
        )

    def _loss(
        self, shown: Tensor | None, first: int, x: Tensor, y: Tensor, precision: str
    ) -> tuple[float, int]:
        """Summed cross-entropy of a batch where the weights stand, and how many are right; inf: overflow."""
        if not self.moving.logits(x).isfinite().all():
            return math.inf, 0  # nothing to attack: PGD would follow the gradient of NaN
        logits = self.moving.logits(self._attacked(first, x, y, precision) if shown is None else shown)
        loss = cross_entropy(logits, y, reduction="none").double().sum()
        return float(loss), int((logits.argmax(1) == y).sum())

    def _attacked(self, first: int, x: Tensor, y: Tensor, precision: str) -> Tensor:
        """x' for the weights as they stand; the start depends on the batch's place alone."""
        attack = self.setting.attack
        params = attacks.parse(attack.family, attack.params)
        seed = seeds.derive(self.setting.seed, "landscape", str(first))
        search, threat, classes = attacks.family(attack.family).search, self.setting.threat, self.ref.classes
        return self.moving.attacked(
            lambda model: search(model, x, y, threat, params, classes=classes, seed=seed), precision
        )

    def _made_at_w(self, first: int, x: Tensor, y: Tensor, precision: str) -> Tensor:
        if first not in self._at_w:
            self.moving.place()
            self._at_w[first] = self._attacked(first, x, y, precision)
        return self._at_w[first]

    def _ascent(self, adv: Tensor, y: Tensor) -> Vector:
        """v of size 1: the gradient of the batch's loss at w on x' of w, norm(v_l) = norm(w_l) (Eq. 10)."""
        self.moving.place()
        return tensor_normalised(self.moving.gradient(adv, y), self.moving.home)

    def _step(self, move: Move) -> Step:
        """A random direction scaled to this model; the last two are kept, which is what a plane needs."""
        name = (move.kind, move.number)
        if name not in self._scaled:
            while len(self._scaled) >= 2:
                self._scaled.popitem(last=False)
            scale = filter_normalised if move.kind == "filter" else tensor_normalised
            self._scaled[name] = scale(self.directions.raw(move.number), self.moving.home)
        return self._scaled[name], move.size
