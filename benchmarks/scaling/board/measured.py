"""Inputs of the simulation that are measured on this machine and stored in ``simulate_board.json``."""

from __future__ import annotations

import io
import math
import pickle
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scaling.board.units import board_request
from robust_eval.core.types import Architecture, Normalisation


@dataclass(frozen=True)
class Measured:
    """Times in seconds and sizes in bytes, from the machine that ran ``--measure``."""

    load_seconds: float
    """Loading a WRN-34-10 checkpoint from disk, and hashing it."""
    driver_seconds: float
    """Work of the driver per unit of 500 examples: read the verdicts, write and flush the file."""
    task_seconds: float
    """Round trip of a task to an idle Ray worker."""
    spread: float
    """Standard deviation of the logarithm of the durations of equal units."""
    task_bytes: int
    """Data sent per unit: options, request and indices."""
    unit_bytes: int
    """Unit file with 500 CIFAR-10 images, all broken."""
    model_bytes: int
    flops: float
    """Operations of a WRN-34-10 forward pass on one image; a multiply-add counts as two."""


def measure() -> Measured:
    """Measure all inputs; no GPU is needed."""
    import numpy as np
    import torch

    from robust_eval.core.types import UnitResult, Verdicts
    from robust_eval.evaluation import store
    from robust_eval.evaluation.planning.cascade import CascadeState
    from robust_eval.evaluation.planning.options import EvaluationOptions
    from robust_eval.models import architectures
    from robust_eval.models.acceleration.tuning import flops
    from robust_eval.models.loading import checkpoint

    random_ = np.random.default_rng(0)
    network = architectures.build("wrn-34-10", classes=10, channels=3, image_size=(32, 32)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wrn.pt"
        checkpoint.save(
            path,
            network,
            checkpoint.CheckpointDescription(
                architecture=Architecture("wrn-34-10"),
                normalisation=Normalisation("none"),
                classes=10,
                channels=3,
                image_size=(32, 32),
                dataset="cifar10",
            ),
        )
        start = time.perf_counter()
        checkpoint.load(str(path), images=None, device="cpu")
        load_seconds = time.perf_counter() - start
        n = 500
        clean = random_.integers(0, 256, (n, 3, 32, 32)) / 255
        adv = np.clip(clean + random_.choice([-1, 1], clean.shape) * 8 / 255, 0, 1).astype(np.float32)
        yes, whole = np.ones(n, bool), np.arange(n)
        verdicts = Verdicts(whole, whole, whole, np.full(n, 0.1), yes, yes, yes, ~yes)
        packed = store.pack_unit("k", UnitResult(verdicts, adv, 1, 1, 1.0))
        run_store = store.open_run(Path(folder) / "run", {"a": 1})
        start = time.perf_counter()
        for i in range(20):
            store.unpack_unit("k", packed, images=False)
            run_store.put(str(i), packed)
        driver_seconds = (time.perf_counter() - start) / 20
    request = board_request(0)
    unit = CascadeState(request).start()[0].units[0]
    task = (EvaluationOptions(checkpoint="c.pt"), request, None, unit)
    with torch.no_grad():
        per_image = float(flops(network, torch.zeros(1, 3, 32, 32)))
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    return Measured(
        load_seconds=load_seconds,
        driver_seconds=driver_seconds,
        task_seconds=_round_trip(),
        spread=_log_std(network),
        task_bytes=len(pickle.dumps(task)),
        unit_bytes=len(packed),
        model_bytes=len(content.getvalue()),
        flops=per_image,
    )


def _round_trip() -> float:
    import ray

    from robust_eval.evaluation.executors import ray_cluster
    from robust_eval.evaluation.planning.options import ClusterOptions

    ray_cluster.connect(ClusterOptions(address="local", workers=1), "cpu", 100 * 2**20)

    class Echo:
        def echo(self, value: bytes) -> bytes:
            return value

    worker = ray.remote(num_cpus=1)(Echo).remote()
    ray.get(worker.echo.remote(b""))
    start = time.perf_counter()
    for _ in range(200):
        ray.get(worker.echo.remote(b"x" * 20_000))
    seconds = (time.perf_counter() - start) / 200
    ray.shutdown()
    return seconds


def _log_std(network: object) -> float:
    """Standard deviation of the log durations of equal passes on this machine.

    Durations vary less on one GPU, but not within a cluster.
    """
    import statistics

    import torch

    assert isinstance(network, torch.nn.Module)
    times = []
    with torch.no_grad():
        for _ in range(12):
            start = time.process_time()
            network(torch.zeros(1, 3, 32, 32))
            times.append(math.log(time.process_time() - start))
    return statistics.stdev(times[2:])
