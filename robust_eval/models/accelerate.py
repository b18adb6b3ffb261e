"""The copy of a model that attacks search with. The judge never sees it.

What makes the copy fast may make an attack weaker, never a model look less robust: verdicts come
from the original. Folding BatchNorm into convolutions, compiling and reduced precision belong
into :func:`frozen`, on the copied network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robust_eval.errors import UserError


def frozen(model: nn.Module, *, batch: int | None = None) -> SearchModel:
    """A deep copy in eval mode, its parameters without gradients, channels-last.

    ``model`` maps ``x_NCHW`` in [0, 1] to ``logits_NK`` and is left as it is. ``batch``: at most
    this many images at once.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)
    return SearchModel(network, batch)


class SearchModel(nn.Module):
    """Counts images passed forwards and backwards, and survives running out of memory.

    A call on more images than fit is split; the limit is found by halving and kept for later calls.
    Passes that are repeated for want of memory are not counted: the bill does not depend on the
    machine.
    """

    def __init__(self, network: nn.Module, batch: int | None) -> None:
        super().__init__()
        self.network = network
        self.batch = batch
        self.reset_counts()

    def reset_counts(self) -> None:
        self.forwards = 0
        self.backwards = 0

    def train(self, mode: bool = True) -> SearchModel:
        """Stays in eval mode: libraries switch modes as a side effect."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """``x_NCHW`` in [0, 1] to ``logits_NK``; differentiable once with respect to ``x``."""
        self.forwards += len(x)
        if torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _Pass.apply(x, self)
            return logits
        return self._in_chunks(self._call, x)

    def _call(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
        return out

    def _in_chunks(self, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``work`` on slices of the inputs that fit into memory; the results concatenated."""
        results: list[Tensor] = []
        total, done = len(inputs[0]), 0
        while done < total or not results:
            size = min(self.batch or total, total - done)
            result = self._fitting(work, *(value[done : done + size] for value in inputs))
            if result is None:
                self._halve(size)
                continue
            results.append(result)
            done += size
        return results[0] if len(results) == 1 else torch.cat(results)

    def _fitting(self, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor | None:
        """The result, or None where memory ran out."""
        try:
            return work(*inputs)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        return None

    def _halve(self, size: int) -> None:
        # Called outside the except block: the traceback holds the tensors that did not fit.
        if size <= 1:
            raise UserError(
                "Out of memory on a single image. Free memory on this device, or use --device cpu."
            )
        self.batch = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _fits(self, x: Tensor) -> bool:
        return self.batch is None or len(x) <= self.batch


class _Pass(torch.autograd.Function):
    """Forward and backward through the network as one step of the outer graph.

    The graph of a whole batch is kept for the backward pass only while it fits into memory; otherwise
    it is computed again, slice by slice. Splitting the forward pass alone would not save anything,
    because autograd would keep every slice's activations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, searcher: SearchModel) -> Tensor:
        ctx.searcher, ctx.graph = searcher, None
        ctx.save_for_backward(x)
        if searcher._fits(x):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                logits = searcher._fitting(searcher._call, leaf)
            if logits is not None:
                out = logits.detach()
                if logits.requires_grad:
                    ctx.graph = (leaf, logits)
                else:
                    # Gradients that the original lacks must be seen to be lacking.
                    ctx.mark_non_differentiable(out)
                return out
            searcher._halve(len(x))
        return searcher._in_chunks(searcher._call, x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, None]:
        searcher: SearchModel = ctx.searcher
        (x,) = ctx.saved_tensors
        searcher.backwards += len(x)
        graph, ctx.graph = ctx.graph, None
        if graph is not None:
            leaf, logits = graph
            del graph
            gradient = searcher._fitting(lambda grad: torch.autograd.grad(logits, leaf, grad)[0], grad_NK)
            if gradient is not None:
                return gradient, None
            del leaf, logits
            searcher._halve(len(x))
        return searcher._in_chunks(lambda part, grad: _gradient(searcher, part, grad), x, grad_NK), None


def _gradient(searcher: SearchModel, x: Tensor, grad_NK: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = searcher._call(leaf)
    return torch.autograd.grad(logits, leaf, grad_NK)[0]


def _out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate" in text or "cannot allocate" in text
