"""Logits at small steps around an image, computed from the changes of activations in bfloat16.

A finite difference needs f(x + d) - f(x) for d as small as 0.001. Computed in bfloat16, f(x + d) and f(x)
are equal after rounding. But a linear layer maps changes to changes, W(a + c) - Wa = Wc, and bfloat16
rounds the change c by at most a 256th of c. So convolutions and linear layers, which take most of the
time, map changes in bfloat16; all other operations process a and a + c in float32. Without rounding the
result would be f(x + d).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

# Largest error relative to the norm of the changes. For comparison: the error of an estimate from 128
# directions in 784 dimensions is twice the norm of the gradient.
TOLERANCE = 0.05
_STEP = 1e-3
"""Size of the steps of SPSA, with which the network is tested."""
_TEST_IMAGES = 4


class _LinearChange(nn.Module):
    """A linear layer in bfloat16 without bias: maps changes of the input to changes of the output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.layer.register_parameter("bias", None)
        self.layer.to(torch.bfloat16)

    def forward(self, change: Tensor) -> Tensor:
        out: Tensor = self.layer(change.to(torch.bfloat16))
        return out


class _GraphBuilder:
    """Builds a graph that computes f(x) and f(x + d) together.

    Each node has a value at x, a value at x + d and their difference; the last two are created on demand.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.graph = traced, fx.Graph()
        self.at: dict[fx.Node, fx.Node] = {}
        self._moved: dict[fx.Node, fx.Node] = {}
        self._changes: dict[fx.Node, fx.Node] = {}

    def module(self) -> fx.GraphModule:
        for node in list(self.traced.graph.nodes):
            self._write(node)
        return fx.GraphModule(self.traced, self.graph)

    def _write(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.at[node] = self.graph.node_copy(node)
            self._changes[node] = self.graph.placeholder("change")
        elif node.op == "output":
            self.graph.node_copy(node, self.moved)
        else:
            # Before the node at x: an in-place operation overwrites the value that the node at x + d needs.
            if self._is_linear(node):
                name = f"{node.target}_changes".replace(".", "_")
                self.traced.add_submodule(name, _LinearChange(self.traced.get_submodule(str(node.target))))
                change = self.change(node.all_input_nodes[0])
                self._changes[node] = self.graph.call_module(name, (change,))
            else:
                self._moved[node] = self.graph.node_copy(node, self.moved)
            self.at[node] = self.graph.node_copy(node, self.at.__getitem__)

    def _is_linear(self, node: fx.Node) -> bool:
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            return False
        return type(self.traced.get_submodule(str(node.target))) in _LINEAR

    def moved(self, node: fx.Node) -> fx.Node:
        """The value at x + d."""
        if node not in self._moved:
            self._moved[node] = self.graph.call_function(_add, (self.at[node], self._changes[node]))
        return self._moved[node]

    def change(self, node: fx.Node) -> fx.Node:
        """The value at x + d minus the value at x."""
        if node not in self._changes:
            self._changes[node] = self.graph.call_function(_subtract, (self._moved[node], self.at[node]))
        return self._changes[node]


class StepNetwork(nn.Module):
    """Maps images (N, C, H, W) and changes (N S, C, H, W) to logits (N S, K) at ``x + change``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Wrapped in a module, because torch.compile skips a GraphModule passed to it directly.
        self.graph = _GraphBuilder(fx.symbolic_trace(network)).module().eval().requires_grad_(False)

    def forward(self, x_NCHW: Tensor, change: Tensor) -> Tensor:
        logits: Tensor = self.graph(x_NCHW, change)
        return logits


def _add(at: Tensor, change: Tensor) -> Tensor:
    """Add the S changes of each image to its value: (N, ...) and (N S, ...) to (N S, ...), in float32."""
    moved: Tensor = at.unsqueeze(1) + change.unflatten(0, (len(at), -1))
    return moved.flatten(0, 1)


def _subtract(moved: Tensor, at: Tensor) -> Tensor:
    change: Tensor = moved.unflatten(0, (len(at), -1)) - at.unsqueeze(1)
    return change.flatten(0, 1)


def step_network(network: nn.Module, x_NCHW: Tensor) -> tuple[StepNetwork | None, str]:
    """(module, note): a :class:`StepNetwork` for ``network``, or None with the reason.

    ``network`` maps images to logits in float32, in eval mode. On a few images ``x_NCHW`` the changes of
    the logits are compared with those of the network. The module is None if the network cannot be traced
    or the relative error exceeds TOLERANCE.
    """
    try:
        module = StepNetwork(network)
        difference = _difference(network, module, x_NCHW[:_TEST_IMAGES])
    except Exception as error:
        # Tracing runs the code of the model with proxies for tensors, which may raise any exception.
        return None, f"SPSA in float32: the graph does not allow bfloat16 changes ({type(error).__name__})"
    if not difference <= TOLERANCE:
        return None, f"SPSA in float32: changes in bfloat16 would be off by {difference:.0%}"
    return module, f"SPSA's changes in bfloat16, off by {difference:.1%}"


@torch.no_grad()
def _difference(network: nn.Module, module: nn.Module, x_NCHW: Tensor) -> float:
    """Relative error (norms) of the changes of the logits, for four steps per image; may be NaN."""
    signs = torch.randint(
        0, 2, (4 * len(x_NCHW), *x_NCHW.shape[1:]), generator=torch.Generator().manual_seed(0)
    )
    steps = ((2 * signs - 1) * _STEP).to(x_NCHW)
    moved = x_NCHW.repeat_interleave(4, 0) + steps
    at, true = network(x_NCHW.clone()).repeat_interleave(4, 0), network(moved.clone())
    found = module(x_NCHW, steps)
    return float((found - true).norm() / (true - at).norm())
