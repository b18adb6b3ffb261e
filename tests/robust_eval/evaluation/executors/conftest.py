"""A Ray cluster shared by all tests, and the options of a short evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.fake_workers import OBJECT_STORE, TRAINED, without_times

from robust_eval.evaluation.executors import ray_nodes
from robust_eval.evaluation.executors.ray_cluster import GrantedResources, connect
from robust_eval.evaluation.planning.options import ClusterOptions, EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[GrantedResources]:
    """A cluster with room for two workers; started once per session, because this takes seconds."""
    ray = pytest.importorskip("ray")
    if not ray.is_initialized():
        connect(ClusterOptions(address="local", workers=2), "cpu", OBJECT_STORE)
    yield GrantedResources(workers=2, gpus=0.0, cpus=1, memory=0)
    ray.shutdown()


CASCADE = """
title = "Cascade"
[[attacks]]
id = "pgd-2"
family = "pgd"
steps = 2
[[attacks]]
id = "cw-3"
family = "cw-linf"
steps = 3
[[attacks]]
id = "pgd-6"
family = "pgd"
steps = 6
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EvaluationOptions:
    """A trained digits network, evaluated with single attacks and a short cascade, in units of ten."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "cascade.toml").write_text(CASCADE)
    suite = folder / "short.toml"
    suite.write_text('version = 1\ncolumns = ["clean", "fgsm", "pgd-10", "cascade.toml"]\n')
    return ray_nodes.absolute(
        EvaluationOptions(
            checkpoint=str(TRAINED),
            suite=str(suite),
            data="digits",
            examples=30,
            eps="0.1",
            device="cpu",
            batch_size=10,
        )
    )


@pytest.fixture(scope="module")
def sequential(options: EvaluationOptions, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The result of one process that runs the units in sequence, with as many threads as a worker."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sequential")
    return without_times(execute(prepare(options), folder / "run", command=options.command()))
