"""Models whose robustness or behaviour is known, and a slow evaluation that can be interrupted."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from torch import nn

from robust_eval.verification.selftest.linear_models import Linear, linear_margin, linear_problem

__all__ = ["Linear", "linear_margin", "linear_problem", "run_in_small_units", "with_batchnorm_statistics"]


def run_in_small_units(folder: str, pipe: str | None = None, units: int = 0) -> None:
    """Run an evaluation of many short units; for a separate process.

    When ``units`` units are on disk, it waits until the other end of the named pipe ``pipe`` is closed.
    """
    from robust_eval import evaluate
    from robust_eval.evaluation.store import FolderStore

    # A shell starts background processes with SIGINT ignored, and child processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    put = FolderStore.put

    def put_and_wait(store: FolderStore, key: str, content: object) -> None:
        put(store, key, content)  # type: ignore[arg-type]
        if pipe is not None and len(list(Path(folder).glob("units/*.npz"))) == units:
            Path(pipe).read_bytes()

    FolderStore.put = put_and_wait  # type: ignore[assignment, method-assign]
    torch.set_num_threads(1)
    model, x, y = linear_problem(n=60)
    evaluate(model, x, y, "Linf 0.04", suite="fgsm,pgd-10,pgd-20", batch_size=6, out=folder)


def with_batchnorm_statistics(network: nn.Module) -> nn.Module:
    """The network in eval mode, with the BatchNorm statistics of random images.

    Signals then pass through deep networks, and a mix-up of two BatchNorm layers changes the logits.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 32, 32))
    return network.eval()
