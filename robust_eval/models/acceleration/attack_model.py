"""The model that attacks call: counts passes, splits batches, and retries after running out of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robust_eval.core.errors import UserError
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration.engine import Engine
from robust_eval.models.acceleration.kept_calls import IMAGES, KeptCalls
from robust_eval.models.acceleration.small_steps import StepEvaluator
from robust_eval.models.gradients import gradient_or_zero
from robust_eval.models.isolation import RandomStream, RecordedWrites, device_of

Result = TypeVar("Result")


class AttackCopy(nn.Module):
    """The accelerated copy of a model that attacks call.

    Counts forward and backward passes (per image). After running out of memory, the batch limit is halved
    for this and later calls. Repeated passes and padding are not counted, so the counts do not depend on
    the machine. The network receives copies, and draws from a stream of random numbers of its own.
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
        writes: bool = False,
    ) -> None:
        """``network`` is used if no engine is given. ``notes`` describe how the copy differs.

        ``writes``: whether the network writes into its input.
        """
        super().__init__()
        self.network = network
        self.batch = batch
        self.engine = forward or Engine(network)
        self.gradient_engine = gradient or Engine(network)
        self.step_evaluator = step_evaluator
        self.notes = notes
        self.stream = RandomStream(device_of(network))
        self._mode = RecordedWrites if writes else nullcontext
        self.reset_counts()

    def reset_counts(self, seed: int = 0) -> None:
        """Set the counts of forward and backward passes to 0, and forget the kept calls.

        ``seed``: chooses the calls that are kept from now on.
        """
        self.forwards = 0
        self.backwards = 0
        self.kept_calls = KeptCalls(seed)

    def train(self, mode: bool = True) -> AttackCopy:
        """Stay in eval mode: libraries switch modes as a side effect."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """``x_NCHW`` in [0, 1] to ``logits_NK``; differentiable once with respect to ``x``.

        The gradient of a model without one is 0; the flag ``no-gradients`` reports it.
        """
        self.forwards += len(x)
        if torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _Pass.apply(x, self)
            return logits
        with torch.no_grad():
            # A model may return the same tensor from every call.
            logits = self._in_chunks(lambda part: self.engine(part).clone(), False, x)
            self.kept_calls.offer(x, logits, differentiable=False)
            return logits

    @torch.no_grad()
    def logits_at_steps(self, x_NCHW: Tensor, steps_NSCHW: Tensor) -> Tensor:
        """Logits (N, S, K) at ``x + steps``, without gradients; by the step evaluator if there is one."""
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
        """Apply ``work`` to slices of the inputs that fit into memory; concatenate the results.

        Running out of memory replaces the engines, so ``work`` must read them from ``self`` in each call.
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
        """The result of ``work``, or None if memory ran out."""
        try:
            with self.stream, self._mode():
                return work(*inputs)
        except RuntimeError as error:
            if not out_of_memory.is_out_of_memory(error):
                raise
        return None

    def _halve(self, size: int) -> None:
        # Called outside the except block, because the traceback references the tensors that did not fit.
        if size <= 1:
            raise UserError(out_of_memory.SINGLE_IMAGE)
        # Engines compiled for larger batches would fail again.
        self.engine, self.gradient_engine = Engine(self.network), Engine(self.network)
        self.batch = size // 2
        out_of_memory.release_cache()

    def _graphs(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(input, logits) of each slice, with the graph for the backward pass."""
        parts = torch.split(x, self.gradient_engine.rows or len(x))
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            return [(leaf, self.gradient_engine(leaf)) for leaf in leaves]

    def _gradient(self, x: Tensor, grad_NK: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = self.gradient_engine(leaf)
        return gradient_or_zero(leaf, logits, grad_NK)


def query_steps(scores: Callable[[Tensor], Tensor], x_NCHW: Tensor, steps_NSCHW: Tensor) -> Tensor:
    """Logits (N, S, K) at ``x + steps``, by calling ``scores`` on the shifted images."""
    queries = (x_NCHW[:, None] + steps_NSCHW).flatten(0, 1)
    logits: Tensor = scores(queries).unflatten(0, steps_NSCHW.shape[:2])
    return logits


class _Pass(torch.autograd.Function):
    """Forward and backward pass of the network as one node of the outer graph.

    The graph of the batch is kept for the backward pass if it fits into memory; otherwise it is computed
    again, slice by slice. Splitting only the forward pass would save nothing, because autograd would keep
    the activations of all slices.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, attack_copy: AttackCopy) -> Tensor:
        logits = _Pass._logits(ctx, x, attack_copy)
        ctx.kept = attack_copy.kept_calls.offer(x, logits, differentiable=True)
        return logits

    @staticmethod
    def _logits(ctx: Any, x: Tensor, attack_copy: AttackCopy) -> Tensor:
        ctx.attack_copy, ctx.graphs = attack_copy, None
        ctx.save_for_backward(x)
        if len(x) and (attack_copy.batch is None or len(x) <= attack_copy.batch):
            graphs = attack_copy._fitting(attack_copy._graphs, x)
            if graphs is not None:
                out = torch.cat([logits.detach() for _, logits in graphs])
                ctx.graphs = graphs
                return out
            attack_copy._halve(len(x))
        return attack_copy._in_chunks(lambda part: attack_copy.gradient_engine(part), True, x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, None]:
        attack_copy: AttackCopy = ctx.attack_copy
        (x,) = ctx.saved_tensors
        attack_copy.backwards += len(x)
        gradient = _Pass._gradient(ctx, x, grad_NK)
        if ctx.kept is not None:
            ctx.kept.weights_NK = grad_NK[:IMAGES].clone()
            ctx.kept.gradient_NCHW = gradient[:IMAGES].clone()
        return gradient, None

    @staticmethod
    def _gradient(ctx: Any, x: Tensor, grad_NK: Tensor) -> Tensor:
        attack_copy: AttackCopy = ctx.attack_copy
        graphs, ctx.graphs = ctx.graphs, None
        if graphs is not None:
            gradient = attack_copy._fitting(lambda grad: _from_graphs(graphs, grad), grad_NK)
            if gradient is not None:
                return gradient
            graphs.clear()
            attack_copy._halve(len(x))
        return attack_copy._in_chunks(attack_copy._gradient, True, x, grad_NK)


def _from_graphs(graphs: list[tuple[Tensor, Tensor]], grad_NK: Tensor) -> Tensor:
    parts = torch.split(grad_NK, [len(leaf) for leaf, _ in graphs])
    pairs = zip(graphs, parts, strict=True)
    return torch.cat([gradient_or_zero(leaf, logits, grad) for (leaf, logits), grad in pairs])
