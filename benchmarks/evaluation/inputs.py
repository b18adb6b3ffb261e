"""Write the inputs of a case: model.pt (trained here, or a copy of a given checkpoint) and images.npz.

Started by ``python -m benchmarks`` in its own process.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.evaluation.side import SEED
from robust_eval import data
from robust_eval.core.errors import UserError
from robust_eval.core.seeds import seed_everything
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models import architectures
from robust_eval.models.loading import checkpoint


@dataclass(frozen=True)
class Training:
    """A short adversarial training, enough for some robustness; not a recipe for a leaderboard."""

    architecture: str
    epochs: int
    steps: int
    batch: int = 100
    rate: float = 2e-3


TRAININGS = {"digits": Training("digits-cnn", 15, 5), "mnist": Training("small-cnn", 1, 2)}


def perturb(network: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """PGD in the Linf ball around x, for training; does not change the mode of the network."""
    delta = torch.empty_like(x).uniform_(-eps, eps)
    for _ in range(steps):
        adv = (x + delta).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(network(adv), y), adv)
        delta = (adv.detach() - x + 1.5 * eps / steps * gradient.sign()).clamp(-eps, eps)
    return (x + delta).clamp(0, 1)


def train(images: ImageSet, training: Training, eps: float) -> nn.Module:
    """Adversarial training; epsilon grows linearly over the first half of the steps."""
    seed_everything(SEED)
    x, y = images.tensors()
    network = architectures.build(
        training.architecture,
        classes=images.classes,
        channels=images.channels,
        image_size=images.image_size,
    )
    per_epoch = len(y) // training.batch
    total = training.epochs * per_epoch
    optimiser = torch.optim.Adam(network.parameters(), lr=training.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.rate, total_steps=total)
    network.train()
    for step in range(total):
        if step % per_epoch == 0:
            batches = torch.randperm(len(y))[: per_epoch * training.batch].view(per_epoch, -1)
        part = batches[step % per_epoch]
        adv = perturb(network, x[part], y[part], eps * min(1.0, 2 * step / total), training.steps)
        optimiser.zero_grad(set_to_none=True)
        cross_entropy(network(adv), y[part]).backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def make_checkpoint(path: Path, dataset: str, root: Path | None, eps: Fraction) -> None:
    training, images = TRAININGS[dataset], data.load(dataset, root=root, split="train")
    network = train(images, training, float(eps))
    checkpoint.save(
        path,
        network,
        checkpoint.CheckpointDescription(
            architecture=Architecture(training.architecture),
            normalisation=Normalisation("none"),
            classes=images.classes,
            channels=images.channels,
            image_size=images.image_size,
            dataset=dataset,
            threat=ThreatModel("Linf", eps),
            recipe=None,
            metrics=None,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--eps", type=Fraction, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    try:
        images = data.load(given.data, root=given.data_root).take(given.examples)
        model = given.folder / "model.pt"
        if given.checkpoint:
            shutil.copyfile(given.checkpoint, model)
        elif not model.exists():
            make_checkpoint(model, given.data, given.data_root, given.eps)
    except UserError as error:
        sys.exit(str(error))
    names = np.array(images.class_names)
    np.savez(given.folder / "images.npz", x=images.x_NHWC, y=images.y_N, class_names=names)


if __name__ == "__main__":
    main()
