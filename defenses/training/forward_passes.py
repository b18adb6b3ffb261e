"""How a training step calls the model: in reduced precision, with weights cast once per attack, compiled.

Two kinds of pass. ``updating`` lets gradients reach the weights. ``frozen`` serves an attack, whose
many passes meet the same weights: those of convolutions and linear layers are cast once, and none
gets a gradient. (Autocast would cast them again in every pass.) Neither changes a result by a bit.
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


class ForwardPasses:
    """``model``: x_NCHW in [0, 1] to logits_NK. Logits come back in float32.

    ``compiled_batch_size``: compile for batches of that many images, None for never. Others, such as an
    epoch's last, and passes without any gradient are not worth code of their own.
    """

    def __init__(
        self,
        model: nn.Module,
        autocast: Callable[[], AbstractContextManager[object]],
        compiled_batch_size: int | None = None,
    ) -> None:
        self.model, self.autocast, self.compiled_batch_size = model, autocast, compiled_batch_size
        if compiled_batch_size is not None:
            # Code is kept by function, not by model: that of an earlier run would count against a limit.
            torch.compiler.reset()
            self._compiled = torch.compile(self._call, dynamic=False, fullgraph=True)

    def updating(self, x_NCHW: Tensor) -> Tensor:
        """Logits, differentiable with respect to the weights as well.

        Autocast is entered per pass: its cache of cast weights would otherwise outlive the moment
        they are perturbed.
        """
        with self.autocast():
            logits_NK: Tensor
            if self._quick(x_NCHW):
                logits_NK = self._compiled_call(dict(self.model.named_parameters()), x_NCHW)
            else:
                logits_NK = self.model(x_NCHW)
        return logits_NK.float()

    def frozen(self) -> Forward:
        """The forward pass at the weights as they now stand, differentiable with respect to images alone."""
        weights = self._weights()
        if not weights:
            return self.updating

        def forward(x_NCHW: Tensor) -> Tensor:
            call = self._compiled_call if self._quick(x_NCHW) else self._call
            with self.autocast():
                logits_NK = call(weights, x_NCHW)
            return logits_NK.float()

        return forward

    def still(self) -> AbstractContextManager[None]:
        """Passes inside leave BatchNorm's running statistics as they are.

        Compiled passes would need other code to leave them alone, so there they are put back.
        """
        return (frozen_statistics if self.compiled_batch_size is None else restored_statistics)(self.model)

    def _call(self, weights: Mapping[str, Tensor], x_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = functional_call(self.model, dict(weights), (x_NCHW,))
        return logits_NK

    def _compiled_call(self, weights: Mapping[str, Tensor], x_NCHW: Tensor) -> Tensor:
        try:
            return self._compiled(weights, x_NCHW)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # loaded by now; seconds if it were not

            if not isinstance(error, TorchDynamoException):
                raise
            problem = str(error).strip().splitlines()[0]
            raise UserError(f"This network cannot be compiled ({problem}): use --compile off.") from error

    def _quick(self, x_NCHW: Tensor) -> bool:
        return len(x_NCHW) == self.compiled_batch_size and torch.is_grad_enabled()

    @torch.no_grad()
    def _weights(self) -> dict[str, Tensor]:
        """Detached weights, cast where autocast would; empty where that would change nothing."""
        parameters = dict(self.model.named_parameters())
        kept = (
            {} if self.compiled_batch_size is None else {name: p.detach() for name, p in parameters.items()}
        )
        with self.autocast():
            device = next(iter(parameters.values())).device.type if parameters else "cpu"
            if not torch.is_autocast_enabled(device):
                return kept
            dtype = torch.get_autocast_dtype(device)
        for prefix, layer in self.model.named_modules():
            if isinstance(layer, _CAST):
                for name, p in layer.named_parameters(prefix, recurse=False):
                    kept[name] = p.to(dtype)
        return kept
