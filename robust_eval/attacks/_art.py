"""The only importer of ART: its attacks, unmodified, on a frozen network.

What is kept from ART's hands and habits:

- its estimators switch modes, clear parameter gradients, move the network and unroll ``Sequential``:
  :class:`_Plain` hides the network's insides;
- every ``generate`` closes with two predictions for a log line: :class:`_Estimator` answers them for
  nothing. Labels are always given and there is one start, so no iterate depends on a prediction;
- its PGD builds a float64 array of the batch's shape on the host at every step: :class:`_PGD` projects
  with the same arithmetic on the device;
- its random starts come from numpy's global generator: numpy is seeded as well as torch;
- labels go in one-hot, losses are sums (a mean underflows when the cross-entropy saturates), images
  are clipped to [0, 1], and the work unit is one batch.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import ClassifierMixin, PyTorchClassifier
from art.estimators.estimator import BaseEstimator
from art.utils import check_and_transform_label_format
from numpy.typing import NDArray
from torch import Tensor, nn

from robust_eval.attacks import _spsa
from robust_eval.core.seeds import seed_everything
from robust_eval.core.threat import Norm, ThreatModel

Loss = Literal["cross-entropy", "margin"]
Floats = NDArray[np.float32]

_ART_NORM: dict[Norm, float] = {"Linf": np.inf, "L2": 2}


class Margin(nn.Module):
    """sum over images of max_{k != y} z_k - z_y, never clamped; ART hands labels over one-hot."""

    reduction = "sum"

    def forward(self, logits_NK: Tensor, onehot_NK: Tensor) -> Tensor:
        return -_spsa.margin(logits_NK, onehot_NK.argmax(1)).sum()


class _Plain(nn.Module):
    """The network as a black box on its own device."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        # In a tuple it is no submodule: ART's to(), train() and zero_grad() do not reach it.
        self._network = (network,)
        self._device = device

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self._network[0](x_NCHW.to(self._device))
        return logits.to(x_NCHW.device)


class _Estimator(PyTorchClassifier):  # type: ignore[misc]  # ART has no types
    def predict(self, x: Floats, *_args: object, **_kwargs: object) -> Floats:
        """Zeros: asked for only to log a success rate that nobody reads."""
        return np.zeros((len(x), self.nb_classes), dtype=np.float32)


class _PGD(ProjectedGradientDescentPyTorch):  # type: ignore[misc]  # ART has no types
    @staticmethod
    def _projection(values: Tensor, eps: float, norm_p: float, *, suboptimal: bool = True) -> Tensor:
        if norm_p == np.inf:
            return values.clamp(-eps, eps)
        flat = values.flatten(1)
        size = torch.linalg.norm(flat, dim=1, keepdim=True).double()
        shrunk: Tensor = flat.double() * (eps / size).clamp_max(1.0).where(size != 0, size)
        return shrunk.to(values.dtype).view_as(values)


def _estimator(model: nn.Module, x_NCHW: Tensor, loss: Loss, classes: int) -> PyTorchClassifier:
    return _Estimator(
        model=_Plain(model, x_NCHW.device),
        loss=nn.CrossEntropyLoss(reduction="sum") if loss == "cross-entropy" else Margin(),
        input_shape=tuple(x_NCHW.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        preprocessing=None,
        device_type="cpu" if x_NCHW.device.type == "cpu" else "gpu",
    )


def _generate(attack: EvasionAttack, x_NCHW: Tensor, y_N: Tensor, classes: int) -> Tensor:
    onehot = nn.functional.one_hot(y_N, classes).float()
    adv: Floats = attack.generate(x=x_NCHW.detach().cpu().numpy(), y=onehot.cpu().numpy())
    return torch.from_numpy(adv).to(x_NCHW.device)


def fgsm(
    model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, *, classes: int, seed: int
) -> Tensor:
    """ART's FastGradientMethod from the clean image, one step of size eps."""
    if len(x_NCHW) == 0:
        return x_NCHW.clone()
    seed_everything(seed)
    attack = FastGradientMethod(
        _estimator(model, x_NCHW, "cross-entropy", classes),
        norm=_ART_NORM[threat.norm],
        eps=threat.radius,
        eps_step=threat.radius,
        num_random_init=0,
        batch_size=len(x_NCHW),
    )
    return _generate(attack, x_NCHW, y_N, classes)


def pgd(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel,
    *,
    steps: int,
    step: Fraction,
    loss: Loss,
    classes: int,
    seed: int,
) -> Tensor:
    """ART's projected gradient descent from one random start; ``step`` in fractions of eps."""
    if len(x_NCHW) == 0:
        return x_NCHW.clone()
    seed_everything(seed)
    attack = _PGD(
        _estimator(model, x_NCHW, loss, classes),
        norm=_ART_NORM[threat.norm],
        eps=threat.radius,
        eps_step=float(threat.eps * step),
        max_iter=steps,
        num_random_init=1,
        batch_size=len(x_NCHW),
        verbose=False,
    )
    return _generate(attack, x_NCHW, y_N, classes)


class SPSA(EvasionAttack):  # type: ignore[misc]  # ART has no types
    """SPSA for any ART classifier that predicts: what the ``spsa`` family does, with ART's interface."""

    attack_params: ClassVar[list[str]] = [
        *("norm", "eps", "iterations", "samples", "delta", "learning_rate", "seed"),
        *EvasionAttack.attack_params,
    ]
    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(
        self,
        estimator: Any,
        *,
        norm: Norm = "Linf",
        eps: float = 8 / 255,
        iterations: int = 100,
        samples: int = 256,
        delta: float = 0.001,
        learning_rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(estimator=estimator)
        self.norm, self.eps, self.seed = norm, eps, seed
        self.iterations, self.samples = iterations, samples
        self.delta, self.learning_rate = delta, learning_rate

    def generate(self, x: Floats, y: NDArray[Any] | None = None, **_kwargs: object) -> Floats:
        """Candidates shaped like x (N, C, H, W); without ``y`` the estimator's predictions are attacked."""
        labels = (
            self.estimator.predict(x)
            if y is None
            else check_and_transform_label_format(y, self.estimator.nb_classes)
        )
        adv = _spsa.attack(
            lambda x_NCHW: torch.from_numpy(self.estimator.predict(x_NCHW.numpy())),
            torch.from_numpy(np.asarray(x, dtype=np.float32)),
            torch.from_numpy(np.asarray(labels).argmax(1)),
            norm=self.norm,
            radius=self.eps,
            iterations=self.iterations,
            samples=self.samples,
            delta=self.delta,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )
        result: Floats = adv.numpy()
        return result
