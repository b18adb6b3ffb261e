"""A Ray cluster shared by all tests, and the options of a short evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_workers import OBJECT_STORE, TRAINED

from robust_eval.evaluation.executors import ray_nodes
from robust_eval.evaluation.executors.ray_cluster import GrantedResources, connect
from robust_eval.evaluation.planning.options import ClusterOptions, EvaluationOptions


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


@pytest.fixture
def options(tmp_path: Path) -> EvaluationOptions:
    """A trained digits network, evaluated with single attacks and a short cascade, in units of ten."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "cascade.toml").write_text(CASCADE)
    suite = tmp_path / "given" / "short.toml"
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
