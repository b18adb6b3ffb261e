"""The optimiser, its parameter groups, and the L1 penalty."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from defenses.recipes import sections


def build_optimiser(network: nn.Module, config: sections.Optimiser) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over two groups: multi-dimensional weights, and biases and BatchNorm parameters.

    With ``undecayed_lr`` = ``constant`` the learning-rate schedule does not change the second group.
    """
    weights = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.dim() <= 1]
    others_decay = 0.0 if config.decay == "weights" else config.weight_decay
    groups = [
        {"params": weights, "weight_decay": config.weight_decay, "scheduled": True},
        {"params": others, "weight_decay": others_decay, "scheduled": config.undecayed_lr == "scheduled"},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name != "sgd":
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        return kind(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the groups that follow the schedule."""
    for group in optimiser.param_groups:
        if group["scheduled"]:
            group["lr"] = rate


def weight_decay_of(optimiser: torch.optim.Optimizer) -> Callable[[Tensor], float]:
    """A function from a parameter to the weight decay that is part of its gradient.

    0 for AdamW, whose decay is apart from the gradient, and for parameters that are not optimised.
    """
    if isinstance(optimiser, torch.optim.AdamW):
        return lambda parameter: 0.0
    table = {id(p): float(g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    return lambda parameter: table.get(id(parameter), 0.0)


def l1_penalty(network: nn.Module, strength: float) -> Tensor:
    """strength * sum of absolute values of multi-dimensional parameters (no biases, no BatchNorm)."""
    sizes = [p.abs().sum() for p in network.parameters() if p.dim() > 1]
    return strength * torch.stack(sizes).sum()
