"""The adversarial loss of one checkpoint at displaced weights.

g(v) = 1/n sum_i CE(z_{w+v}(x'_i), y_i), with x'_i generated anew by PGD on the displaced model (Wu, Xia and
Wang 2020, Eq. 5 and Algorithm 1). Each image has the same random start at every point and for every
checkpoint, so that differences come from the weights and not from the attack's noise. BatchNorm is in eval
mode.
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
from robust_eval.landscape.awp.points import Displacement, MeasuredLoss, ScanSetting, WeightPoint, point_key
from robust_eval.landscape.directions import Directions, Vector, filter_normalised, tensor_normalised
from robust_eval.landscape.displaced_model import DisplacedModel, ScaledDirection
from robust_eval.models.normalisation import Normalised

# Images on which the attack copy is checked at every point.
SAMPLE = 16


class AdversarialLoss:
    """Measures g(v) of one checkpoint on all images of a scan.

    ``x_NCHW`` (float32 in [0, 1]) and ``y_N`` (int64) are on the model's device. ``model`` is not modified.
    """

    def __init__(
        self,
        model: Normalised,
        ref: CheckpointRef,
        x_NCHW: Tensor,
        y_N: Tensor,
        setting: ScanSetting,
        directions: Directions,
    ) -> None:
        full_precision()
        self.displaced = DisplacedModel(model, ref.name, x_NCHW[:SAMPLE])
        self.ref, self.setting, self.directions = ref, setting, directions
        self.x, self.y = x_NCHW, y_N
        self._scaled: OrderedDict[tuple[str, int], Vector] = OrderedDict()
        self._adversarial_at_w: dict[int, Tensor] = {}

    def measure(self, point: WeightPoint) -> MeasuredLoss:
        """Loss and accuracy at ``point``, independent of the points measured before."""
        started, displaced = time.perf_counter(), self.displaced
        displaced.forwards = displaced.backwards = 0
        precision = FLOAT32 if point.float32_attack else self.setting.precision
        random = [self._scaled_direction(one) for one in point.displacements if one.kind != "awp"]
        awp_sizes = [one.size for one in point.displacements if one.kind == "awp"]
        images_from_w = point.images == "at-w"
        total, correct, n = 0.0, 0, len(self.y)
        for first in range(0, n, self.setting.batch_size):
            batch = slice(first, min(first + self.setting.batch_size, n))
            x, y = self.x[batch], self.y[batch]
            at_w = self._attack_at_w(first, x, y, precision) if awp_sizes or images_from_w else None
            awp = [(self._awp_direction(at_w, y), size) for size in awp_sizes if at_w is not None]
            displaced.displace([*random, *awp])
            loss, batch_correct = self._batch_loss(at_w if images_from_w else None, first, x, y, precision)
            total, correct = total + loss, correct + batch_correct
            if not math.isfinite(total):
                break
        finite = math.isfinite(total)
        return MeasuredLoss(
            key=point_key(self.setting, self.ref, point),
            loss=total / n if finite else None,
            accuracy=correct / n if finite else 0.0,
            forwards=displaced.forwards,
            backwards=displaced.backwards,
            seconds=time.perf_counter() - started,
        )

    def _batch_loss(
        self, x_adv: Tensor | None, first: int, x: Tensor, y: Tensor, precision: str
    ) -> tuple[float, int]:
        """Summed cross-entropy and number of correct images at the current weights; (inf, 0) on overflow."""
        if not self.displaced.logits(x).isfinite().all():
            return math.inf, 0  # PGD cannot follow the gradient of NaN
        logits = self.displaced.logits(self._attack(first, x, y, precision) if x_adv is None else x_adv)
        loss = cross_entropy(logits, y, reduction="none").double().sum()
        return float(loss), int((logits.argmax(1) == y).sum())

    def _attack(self, first: int, x: Tensor, y: Tensor, precision: str) -> Tensor:
        """Adversarial images at the current weights; the random start depends only on the batch's index."""
        attack = self.setting.attack
        params = attacks.parse(attack.family, attack.params)
        seed = seeds.derive(self.setting.seed, "landscape", str(first))
        search, threat, classes = attacks.family(attack.family).search, self.setting.threat, self.ref.classes
        return self.displaced.attack(
            lambda model: search(model, x, y, threat, params, classes=classes, seed=seed), precision
        )

    def _attack_at_w(self, first: int, x: Tensor, y: Tensor, precision: str) -> Tensor:
        if first not in self._adversarial_at_w:
            self.displaced.displace()
            self._adversarial_at_w[first] = self._attack(first, x, y, precision)
        return self._adversarial_at_w[first]

    def _awp_direction(self, x_adv: Tensor, y: Tensor) -> Vector:
        """AWP's v for gamma = 1: the loss gradient at w on x' made at w, norm(v_l) = norm(w_l) (Eq. 10)."""
        self.displaced.displace()
        return tensor_normalised(self.displaced.weight_gradient(x_adv, y), self.displaced.weights)

    def _scaled_direction(self, displacement: Displacement) -> ScaledDirection:
        """A random direction scaled to this model; the last two are cached (a plane needs two)."""
        name = (displacement.kind, displacement.number)
        if name not in self._scaled:
            while len(self._scaled) >= 2:
                self._scaled.popitem(last=False)
            normalise = filter_normalised if displacement.kind == "filter" else tensor_normalised
            raw = self.directions.raw(displacement.number)
            self._scaled[name] = normalise(raw, self.displaced.weights)
        return self._scaled[name], displacement.size
