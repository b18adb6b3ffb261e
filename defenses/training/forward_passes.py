"""Forward passes of a training step: reduced precision, weights cast once per attack, compilation.

``with_weight_gradients``: gradients reach the weights. ``with_frozen_weights``: for an attack, whose many
passes use the same weights; those of convolutions and linear layers are cast once and get no gradient
(autocast would cast them again in every pass). Results are identical bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from defenses.objectives import Forward
from defenses.training.batchnorm import frozen_statistics, restored_statistics
from robust_eval.core.errors import UserError

_CAST = (_ConvNd, nn.Linear)
"""The layers whose weights autocast casts; BatchNorm's scale and shift stay float32."""
_CAST_NAMES = ("weight", "bias")
"""Not the tensors that a parametrised weight is computed from."""


class ForwardPasses:
    """Calls ``model`` (x_NCHW in [0, 1] to logits_NK) under ``autocast``; logits are returned in float32.

    ``compiled_batch_size``: compile for batches of this many images; None: do not compile. Batches of
    other sizes (an epoch's last) and passes without gradients are not compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        autocast: Callable[[], AbstractContextManager[object]],
        compiled_batch_size: int | None = None,
    ) -> None:
        self.model, self.autocast, self.compiled_batch_size = model, autocast, compiled_batch_size
        if compiled_batch_size is not None:
            # Torch limits compiled versions per function; those of an earlier run would count.
            torch.compiler.reset()
            self._compiled = torch.compile(self._call, dynamic=False, fullgraph=True)

    def with_weight_gradients(self, x_NCHW: Tensor) -> Tensor:
        """Logits that are differentiable with respect to the weights and the images.

        Autocast is entered in each pass: its cache of cast weights must not survive a perturbation of
        the weights.
        """
        with self.autocast():
            logits_NK: Tensor
            if self._uses_compiled(x_NCHW):
                logits_NK = self._compiled_call(dict(self.model.named_parameters()), x_NCHW)
            else:
                logits_NK = self.model(x_NCHW)
        return logits_NK.float()

    def with_frozen_weights(self) -> Forward:
        """A forward pass at the current weights, differentiable with respect to the images only."""
        weights = self._weights()
        if not weights:
            return self.with_weight_gradients

        def forward(x_NCHW: Tensor) -> Tensor:
            call = self._compiled_call if self._uses_compiled(x_NCHW) else self._call
            with self.autocast():
                logits_NK = call(weights, x_NCHW)
            return logits_NK.float()

        return forward

    def frozen_batchnorm_stats(self) -> AbstractContextManager[None]:
        """Passes inside do not change BatchNorm's running statistics.

        With compiled passes the statistics are restored on exit: freezing them would need a second
        compilation.
        """
        return (frozen_statistics if self.compiled_batch_size is None else restored_statistics)(self.model)

    def _call(self, weights: Mapping[str, Tensor], x_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = functional_call(self.model, dict(weights), (x_NCHW,))
        return logits_NK

    def _compiled_call(self, weights: Mapping[str, Tensor], x_NCHW: Tensor) -> Tensor:
        try:
            return self._compiled(weights, x_NCHW)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # takes seconds if not loaded yet

            if not isinstance(error, TorchDynamoException):
                raise
            problem = str(error).strip().splitlines()[0]
            raise UserError(f"This network cannot be compiled ({problem}): use --compile off.") from error

    def _uses_compiled(self, x_NCHW: Tensor) -> bool:
        return len(x_NCHW) == self.compiled_batch_size and torch.is_grad_enabled()

    @torch.no_grad()
    def _weights(self) -> dict[str, Tensor]:
        """Detached weights, cast as autocast would; empty if that would change nothing."""
        parameters = dict(self.model.named_parameters())
        weights = {}
        if self.compiled_batch_size is not None:
            weights = {name: p.detach() for name, p in parameters.items()}
        with self.autocast():
            device = next(iter(parameters.values())).device.type if parameters else "cpu"
            if not torch.is_autocast_enabled(device):
                return weights
            dtype = torch.get_autocast_dtype(device)
        # By the first name of each: a tensor that other layers share is theirs too, and keeps its type.
        kept = {
            id(p) for m in self.model.modules() if not isinstance(m, _CAST) for p in m._parameters.values()
        }
        for prefix, layer in self.model.named_modules():
            for name in _CAST_NAMES if isinstance(layer, _CAST) else ():
                full = f"{prefix}.{name}" if prefix else name
                if full in parameters and id(parameters[full]) not in kept:
                    weights[full] = parameters[full].to(dtype)
        return weights
