"""A network's answers close to an image, through the changes of its activations: bfloat16 that loses no step.

A finite difference asks for f(x + d) - f(x) with d as small as 0.001. Rounded to bfloat16, f(x + d) is
f(x). But a linear layer maps changes to changes, W(a + c) - Wa = Wc, and bfloat16 rounds the change c
by a 256th of *itself*. So convolutions and linear layers, where the time goes, map changes in bfloat16;
all other operations see a and a + c in float32. Without rounding it would be f(x + d).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

# Of the changes' own length. An estimate from 128 directions in 784 dimensions is off by twice its length.
TOLERANCE = 0.05
_STEP = 1e-3
"""A change of the pixels that SPSA makes, to try the network with."""
_TRIED = 4


class _Changes(nn.Module):
    """A linear layer without its bias, in bfloat16: changes of its input to changes of its output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.layer.register_parameter("bias", None)
        self.layer.to(torch.bfloat16)

    def forward(self, change: Tensor) -> Tensor:
        out: Tensor = self.layer(change.to(torch.bfloat16))
        return out


class _Writer:
    """Writes the graph of f(x + d) beside that of f(x). Every value has two forms, made when asked for."""

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
            # First: an operation in place takes with it the value from which the moved one is made.
            if self._is_linear(node):
                name = f"{node.target}_changes".replace(".", "_")
                self.traced.add_submodule(name, _Changes(self.traced.get_submodule(str(node.target))))
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
        """The value at x + d less that at x."""
        if node not in self._changes:
            self._changes[node] = self.graph.call_function(_subtract, (self._moved[node], self.at[node]))
        return self._changes[node]


class StepNetwork(nn.Module):
    """x_NCHW and changes (N S, C, H, W) to logits_NK (N S, K) at ``x + change``: S for each image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Around the graph's module, which the compiler would pass over if it were given that itself.
        self.graph = _Writer(fx.symbolic_trace(network)).module().eval().requires_grad_(False)

    def forward(self, x_NCHW: Tensor, change: Tensor) -> Tensor:
        logits: Tensor = self.graph(x_NCHW, change)
        return logits


def _add(at: Tensor, change: Tensor) -> Tensor:
    """Each image's value with its own changes: (N, ...) and (N S, ...) to (N S, ...), in float32."""
    moved: Tensor = at.unsqueeze(1) + change.unflatten(0, (len(at), -1))
    return moved.flatten(0, 1)


def _subtract(moved: Tensor, at: Tensor) -> Tensor:
    change: Tensor = moved.unflatten(0, (len(at), -1)) - at.unsqueeze(1)
    return change.flatten(0, 1)


def step_network(network: nn.Module, x_NCHW: Tensor) -> tuple[StepNetwork | None, str]:
    """(module, note): the logits of ``network`` around an image.

    ``network`` maps images to logits in float32, in eval mode; ``x_NCHW`` are a few of them, on which the
    module's changes are compared with the network's. None where the network's graph cannot be read, or
    where rounding would be more than TOLERANCE.
    """
    try:
        module = StepNetwork(network)
        difference = _difference(network, module, x_NCHW[:_TRIED])
    except Exception as error:
        # Tracing runs the model's own Python code on stand-ins for tensors: anything can come out of it.
        return None, f"SPSA in float32: the graph does not allow bfloat16 changes ({type(error).__name__})"
    if not difference <= TOLERANCE:
        return None, f"SPSA in float32: changes in bfloat16 would be off by {difference:.0%}"
    return module, f"SPSA's changes in bfloat16, off by {difference:.1%}"


@torch.no_grad()
def _difference(network: nn.Module, module: nn.Module, x_NCHW: Tensor) -> float:
    """The length of the error of the logits' changes over theirs, four steps for each image; may be nan."""
    signs = torch.randint(
        0, 2, (4 * len(x_NCHW), *x_NCHW.shape[1:]), generator=torch.Generator().manual_seed(0)
    )
    steps = ((2 * signs - 1) * _STEP).to(x_NCHW)
    moved = x_NCHW.repeat_interleave(4, 0) + steps
    at, true = network(x_NCHW).repeat_interleave(4, 0), network(moved)
    found = module(x_NCHW, steps)
    return float((found - true).norm() / (true - at).norm())
