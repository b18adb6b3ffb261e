"""Linear models, whose robust accuracy has a closed form that every correct attack reaches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """A linear classifier; see :func:`linear_margin`."""

    def __init__(self, classes: int = 4, shape: tuple[int, int, int] = (1, 4, 4), seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(shape[0] * shape[1] * shape[2], classes)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(self.fc.weight.shape, generator=generator))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(x))
        return logits


def linear_problem(
    n: int = 40, classes: int = 4, shape: tuple[int, int, int] = (1, 4, 4), seed: int = 0
) -> tuple[Linear, Tensor, Tensor]:
    """A model, images near 0.5 (n, C, H, W), and labels: the model's predictions, except for one tenth."""
    model = Linear(classes, shape, seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    x = 0.5 + 0.2 * (torch.rand((n, *shape), generator=generator) - 0.5)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[: n // 10] = (y[: n // 10] + 1) % classes
    return model, x, y


def linear_margin(model: Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Signed distance to the decision boundary (N,): min over k of (z_y - z_k) / ||w_y - w_k||, dual norm."""
    with torch.no_grad():
        z = model(x)
        w = model.fc.weight
        gaps = z.gather(1, y[:, None]) - z
        differences = w[y][:, None] - w[None]
        size = differences.abs().sum(2) if norm == "Linf" else differences.norm(2, dim=2)
        distance = gaps / size.clamp_min(1e-12)
        distance.scatter_(1, y[:, None], float("inf"))
        nearest: Tensor = distance.amin(1)
    return nearest
