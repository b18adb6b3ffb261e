"""FGSM and PGD of the Adversarial Robustness Toolbox (ART). Only this module imports ART.

Default behaviour of ART that this module avoids:

- estimators switch modes, clear parameter gradients, move the network and unroll ``Sequential``:
  :class:`_BlackBox` hides the submodules of the network;
- ``generate`` ends with two predictions for a log message: :class:`_Estimator` returns zeros instead.
  Labels are always given and there is one start, so no iterate depends on a prediction;
- the estimator computes on the CPU or the current GPU: :func:`_estimator` sets the device of the images;
- PGD copies numbers between host and device at every step, and creates a float64 array of the batch on the
  host: :class:`_PGD` takes, clips and projects the step with the same arithmetic on the device;
- L2 norms of small gradients underflow: :class:`_Estimator` scales such gradients first.

ART draws random starts from the global generator of numpy, so numpy is seeded as well as torch. Labels are
one-hot, losses are sums (a mean underflows when the cross-entropy saturates), images are clipped to
[0, 1], and the unit is one batch.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robust_eval.attacks._art_home import writable_home
from robust_eval.attacks._pgd_params import PGDParams
from robust_eval.core import norms
from robust_eval.core.logits import margin
from robust_eval.core.seeds import seed_everything
from robust_eval.core.threat import Norm, ThreatModel

with writable_home():
    from art.attacks.attack import EvasionAttack
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

Loss = Literal["cross-entropy", "margin"]
Floats = NDArray[np.float32]

_ART_NORM: dict[Norm, float] = {"Linf": np.inf, "L2": 2}


class Margin(nn.Module):
    """The sum over images of max_{k != y} z_k - z_y, not clamped, for one-hot labels."""

    reduction = "sum"

    def forward(self, logits_NK: Tensor, onehot_NK: Tensor) -> Tensor:
        return -margin(logits_NK, onehot_NK.argmax(1)).sum()


class _BlackBox(nn.Module):
    """A network whose submodules ART cannot see."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # In a tuple it is no submodule, so to(), train() and zero_grad() of ART do not affect it.
        self._network = (network,)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self._network[0](x_NCHW)
        return logits


class _Estimator(PyTorchClassifier):  # type: ignore[misc]  # ART has no types
    scales_small_gradients = False
    """For attacks that divide the gradient by its L2 norm; the direction does not change."""

    def predict(self, x: Floats, *_args: object, **_kwargs: object) -> Floats:
        """Zeros; ART only uses predictions to log a success rate."""
        return np.zeros((len(x), self.nb_classes), dtype=np.float32)

    def loss_gradient(self, *args: Any, **kwargs: Any) -> Floats | Tensor:
        """The gradient of the loss with respect to x (N, C, H, W), as numpy array or tensor like x."""
        gradient: Floats | Tensor = super().loss_gradient(*args, **kwargs)
        if not self.scales_small_gradients:
            return gradient
        if isinstance(gradient, Tensor):
            return norms.scale_small_gradients(gradient)
        scaled: Floats = norms.scale_small_gradients(torch.from_numpy(gradient)).numpy()
        return scaled


class _PGD(ProjectedGradientDescentPyTorch):  # type: ignore[misc]  # ART has no types
    def _compute_perturbation_pytorch(self, x: Tensor, y: Tensor, *_unused: object) -> Tensor:
        gradient: Tensor = self.estimator.loss_gradient(x=x, y=y)
        gradient = gradient.masked_fill(gradient.isnan(), 0.0)
        if self.norm == np.inf:
            signs: Tensor = gradient.sign()
            return signs
        size = torch.linalg.norm(gradient.flatten(1), dim=1)[:, None, None, None]
        direction: Tensor = gradient * size.where(size == 0, 1 / size)
        return direction

    def _apply_perturbation_pytorch(self, x: Tensor, perturbation: Tensor, eps_step: float) -> Tensor:
        step = perturbation * float(eps_step)
        clipped: Tensor = (x + step.masked_fill(step.isnan(), 0.0)).clamp(*self.estimator.clip_values)
        return clipped

    @staticmethod
    def _projection(values: Tensor, eps: float, norm_p: float, *, suboptimal: bool = True) -> Tensor:
        if norm_p == np.inf:
            return values.clamp(-eps, eps)
        flat = values.flatten(1)
        size = torch.linalg.norm(flat, dim=1, keepdim=True).double()
        shrunk: Tensor = flat.double() * (eps / size).clamp_max(1.0).where(size != 0, size)
        return shrunk.to(values.dtype).view_as(values)


def _estimator(model: nn.Module, x_NCHW: Tensor, loss: Loss, classes: int, norm: Norm) -> PyTorchClassifier:
    estimator = _Estimator(
        model=_BlackBox(model),
        loss=nn.CrossEntropyLoss(reduction="sum") if loss == "cross-entropy" else Margin(),
        input_shape=tuple(x_NCHW.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        preprocessing=None,
        device_type="cpu",
    )
    estimator._device = x_NCHW.device
    estimator.scales_small_gradients = norm == "L2"
    return estimator


def _generate(attack: EvasionAttack, x_NCHW: Tensor, y_N: Tensor, classes: int) -> Tensor:
    onehot = nn.functional.one_hot(y_N, classes).float()
    adv: Floats = attack.generate(x=x_NCHW.detach().cpu().numpy(), y=onehot.cpu().numpy())
    return torch.from_numpy(adv).to(x_NCHW.device)


def fgsm(
    model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, *, classes: int, seed: int
) -> Tensor:
    """FastGradientMethod of ART: one step of size epsilon from the clean image."""
    if len(x_NCHW) == 0:
        return x_NCHW.clone()
    seed_everything(seed)
    attack = FastGradientMethod(
        _estimator(model, x_NCHW, "cross-entropy", classes, threat.norm),
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
    params: PGDParams,
    *,
    loss: Loss,
    classes: int,
    seed: int,
) -> Tensor:
    """ProjectedGradientDescent of ART from one random start; returns the last iterate."""
    if len(x_NCHW) == 0:
        return x_NCHW.clone()
    seed_everything(seed)
    attack = _PGD(
        _estimator(model, x_NCHW, loss, classes, threat.norm),
        norm=_ART_NORM[threat.norm],
        eps=threat.radius,
        eps_step=float(threat.eps * params.step(threat.norm)),
        max_iter=params.steps,
        num_random_init=1,
        batch_size=len(x_NCHW),
        verbose=False,
    )
    return _generate(attack, x_NCHW, y_N, classes)
