"""Small networks that are saved as foreign files, which record neither architecture nor normalisation.

WRN-10-1 on scikit-learn's digits. Nothing is trained: the BatchNorm layers remember the statistics of the
training images, and the last layer is fitted by least squares (about 75% clean accuracy), which takes a tenth
of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute
from robust_eval.models.architectures import wrn
from robust_eval.models.architectures._activations import Function
from robust_eval.verification.selftest.case import flag_ids
from robust_eval.verification.selftest.cases_unmodified import CHECKPOINT
from robust_eval.verification.selftest.plain_network import digit_images

State = dict[str, Tensor]
"""``names to tensors``: what a foreign file contains."""


@dataclass(frozen=True)
class Foreign:
    """A function that the tensors of a foreign file were made for."""

    activation: Function = torch.relu
    scale: float = 1.0
    """Input is pixels in [0, 1] times this."""
    bias: bool = True
    """Of the last layer."""
    augment: Function = torch.clone
    """Changes the images (N, C, H, W) that the BatchNorm layers remember."""

    def network(self) -> nn.Module:
        """The network, in eval mode."""
        x_NCHW, y_N = digit_images("train")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            network = wrn.build(classes=10, channels=1, image_size=(8, 8), depth=10, width=1, bias=self.bias)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
                if isinstance(module, (wrn.WideBlock, wrn.WideResNet)):
                    module.activation = self.activation
            features = _features(network, self.scale * self.augment(x_NCHW))
            _fit_last_layer(network.get_submodule("fc"), features, y_N)
        return network.eval().requires_grad_(False)

    def state(self) -> State:
        """The tensors."""
        return self.network().state_dict()


def trained_without_batchnorm() -> State:
    """The weights of the shipped network, without the header that describes them."""
    return load_file(CHECKPOINT)


def flags_of_file(state: State, arch: str | None = None, normalisation: str | None = None) -> set[str]:
    """Flags raised by loading and judging a foreign file with these tensors."""
    with TemporaryDirectory() as folder:
        # Every supported version of torch reads this format.
        path = Path(folder) / "foreign.safetensors"
        save_file(state, path)
        options = EvaluationOptions(
            checkpoint=str(path),
            data="digits",
            suite="clean",
            norm="Linf",
            eps="0.1",
            arch=arch,
            normalisation=normalisation,
            device="cpu",
            batch_size=120,
        )
        return flag_ids(execute(prepare(options)).flags)


def _features(network: nn.Module, x_NCHW: Tensor) -> Tensor:
    """The input of the last layer, (N, F), while the BatchNorm layers store the statistics."""
    found: list[Tensor] = []
    hook = network.get_submodule("fc").register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    network.train()(x_NCHW)
    hook.remove()
    return found[0]


def _fit_last_layer(layer: nn.Module, features_NF: Tensor, y_N: Tensor) -> None:
    """Ridge regression of the classes, without an intercept if the layer has no bias."""
    ones = torch.ones(len(features_NF), 1 if layer.bias is not None else 0)
    inputs = torch.cat([features_NF, ones], 1).double()
    target = torch.nn.functional.one_hot(y_N, 10).double()
    ridge = 1e-3 * len(inputs) * inputs.square().mean() * torch.eye(inputs.shape[1])
    solution = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ target).T.float()
    layer.get_parameter("weight").copy_(10 * solution[:, : features_NF.shape[1]])
    if layer.bias is not None:
        layer.get_parameter("bias").copy_(10 * solution[:, -1])
