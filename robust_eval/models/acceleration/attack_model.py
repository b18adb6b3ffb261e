"""The network as attacks see it: counted, split to size, and surviving a lack of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robust_eval.core.errors import UserError
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration.small_steps import StepEvaluator

Result = TypeVar("Result")
# Several small calls instead of a padded one must save more than small calls cost.
_SAVES = 1.2


@dataclass(frozen=True)
class Engine:
    """One way of calling a network, and the batches that it likes.

    ``rows``: at most this many images in a call (None: any number). ``sizes``: compiled for these
    batch sizes alone, in rising order, the last one being ``rows``; smaller batches are padded up.
    """

    call: Callable[[Tensor], Tensor]
    rows: int | None = None
    sizes: tuple[int, ...] = ()

    def portion(self, n: int) -> int:
        """How many of ``n`` images the next call should take: as few as possible should be padding."""
        if self.rows is None or n >= self.rows:
            return min(n, self.rows or n)
        smaller = max((size for size in self.sizes if size < n), default=None)
        if smaller is None:
            return n
        padded = next((size for size in self.sizes if size >= n), n)
        return smaller if padded > _SAVES * smaller * -(-n // smaller) else n

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Logits (N, K) of at most ``rows`` images."""
        x = x_NCHW.contiguous(memory_format=torch.channels_last) if x_NCHW.dim() == 4 else x_NCHW
        size = next((size for size in self.sizes if size >= len(x)), len(x))
        if size > len(x) > 0:
            padding = x[:1].detach().expand(size - len(x), *x.shape[1:])
            x = torch.cat([x, padding]).contiguous(memory_format=torch.channels_last)
        return self.call(x)[: len(x_NCHW)]


class AttackCopy(nn.Module):
    """Counts images passed forwards and backwards, and survives running out of memory.

    A call on more images than fit is split; the limit is found by halving and kept for later calls.
    Passes that are repeated for want of memory, and rows that pad a batch, are not counted: the bill
    does not depend on the machine.
    """

    def __init__(
        self,
        network: nn.Module,
        batch: int | None,
        *,
        forward: Engine | None = None,
        gradient: Engine | None = None,
        step_evaluator: StepEvaluator | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """``network`` answers where an engine is not given. ``notes``: what was done to it, in words."""
        super().__init__()
        self.network = network
        self.batch = batch
        self.engine = forward or Engine(network)
        self.gradient_engine = gradient or Engine(network)
        self.step_evaluator = step_evaluator
        self.notes = notes
        self.reset_counts()

    def reset_counts(self) -> None:
        self.forwards = 0
        self.backwards = 0

    def train(self, mode: bool = True) -> AttackCopy:
        """Stays in eval mode: libraries switch modes as a side effect."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """``x_NCHW`` in [0, 1] to ``logits_NK``; differentiable once with respect to ``x``."""
        self.forwards += len(x)
        if torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _Pass.apply(x, self)
            return logits
        with torch.no_grad():
            return self._in_chunks(lambda part: self.engine(part), False, x)

    @torch.no_grad()
    def logits_at_steps(self, x_NCHW: Tensor, steps_NSCHW: Tensor) -> Tensor:
        """Logits (N, S, K) at ``x + steps``, without gradients; quicker than asking there for small steps."""
        if self.step_evaluator is not None:
            logits = self._fitting(self.step_evaluator, x_NCHW, steps_NSCHW)
            if logits is not None:
                self.forwards += logits.shape[:2].numel()
                return logits
            self.step_evaluator = None
            out_of_memory.release_cache()
        return query_steps(self, x_NCHW, steps_NSCHW)

    def _portion(self, gradient: bool, left: int) -> int:
        engine = self.gradient_engine if gradient else self.engine
        return engine.portion(min(self.batch or left, left))

    def _in_chunks(self, work: Callable[..., Tensor], gradient: bool, *inputs: Tensor) -> Tensor:
        """``work`` on slices of the inputs that fit into memory; the results concatenated.

        Running out of memory replaces the engines: ``work`` must look them up anew at each call.
        """
        results: list[Tensor] = []
        total, done = len(inputs[0]), 0
        while done < total or not results:
            size = self._portion(gradient, total - done)
            result = self._fitting(work, *(value[done : done + size] for value in inputs))
            if result is None:
                self._halve(size)
                continue
            results.append(result)
            done += size
        return results[0] if len(results) == 1 else torch.cat(results)

    def _fitting(self, work: Callable[..., Result], *inputs: Tensor) -> Result | None:
        """The result, or None where memory ran out."""
        try:
            return work(*inputs)
        except RuntimeError as error:
            if not out_of_memory.is_out_of_memory(error):
                raise
        return None

    def _halve(self, size: int) -> None:
        # Called outside the except block: the traceback holds the tensors that did not fit.
        if size <= 1:
            raise UserError(out_of_memory.SINGLE)
        # What is compiled for larger batches would go on failing.
        self.engine, self.gradient_engine = Engine(self.network), Engine(self.network)
        self.batch = size // 2
        out_of_memory.release_cache()

    def _graphs(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(input, logits) of each slice, ready for its backward pass."""
        parts = torch.split(x, self.gradient_engine.rows or len(x))
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            return [(leaf, self.gradient_engine(leaf)) for leaf in leaves]

    def _gradient(self, x: Tensor, grad_NK: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = self.gradient_engine(leaf)
        return torch.autograd.grad(logits, leaf, grad_NK)[0]


def query_steps(scores: Callable[[Tensor], Tensor], x_NCHW: Tensor, steps_NSCHW: Tensor) -> Tensor:
    """Logits (N, S, K) at ``x + steps``, by asking there."""
    queries = (x_NCHW[:, None] + steps_NSCHW).flatten(0, 1)
    logits: Tensor = scores(queries).unflatten(0, steps_NSCHW.shape[:2])
    return logits


class _Pass(torch.autograd.Function):
    """Forward and backward through the network as one step of the outer graph.

    The graph of a whole batch is kept for the backward pass only while it fits into memory; otherwise
    it is computed again, slice by slice. Splitting the forward pass alone would not save anything,
    because autograd would keep every slice's activations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, attack_copy: AttackCopy) -> Tensor:
        ctx.attack_copy, ctx.graphs = attack_copy, None
        ctx.save_for_backward(x)
        if len(x) and (attack_copy.batch is None or len(x) <= attack_copy.batch):
            graphs = attack_copy._fitting(attack_copy._graphs, x)
            if graphs is not None:
                out = torch.cat([logits.detach() for _, logits in graphs])
                if all(logits.requires_grad for _, logits in graphs):
                    ctx.graphs = graphs
                else:
                    # Gradients that the original lacks must be seen to be lacking.
                    ctx.mark_non_differentiable(out)
                return out
            attack_copy._halve(len(x))
        return attack_copy._in_chunks(lambda part: attack_copy.gradient_engine(part), True, x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, None]:
        attack_copy: AttackCopy = ctx.attack_copy
        (x,) = ctx.saved_tensors
        attack_copy.backwards += len(x)
        graphs, ctx.graphs = ctx.graphs, None
        if graphs is not None:
            gradient = attack_copy._fitting(lambda grad: _from_graphs(graphs, grad), grad_NK)
            if gradient is not None:
                return gradient, None
            graphs.clear()
            attack_copy._halve(len(x))
        return attack_copy._in_chunks(attack_copy._gradient, True, x, grad_NK), None


def _from_graphs(graphs: list[tuple[Tensor, Tensor]], grad_NK: Tensor) -> Tensor:
    parts = torch.split(grad_NK, [len(leaf) for leaf, _ in graphs])
    pairs = zip(graphs, parts, strict=True)
    return torch.cat([torch.autograd.grad(logits, leaf, grad)[0] for (leaf, logits), grad in pairs])
