"""Invalid options of --executor ray, --shard and merge are refused. These tests start no cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fake_workers import TRAINED

from robust_eval.cli.main import main
from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import ray_cluster, ray_nodes
from robust_eval.evaluation.executors.ray_cluster import GIB
from robust_eval.evaluation.planning.options import ClusterOptions, EvaluationOptions

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Call ``robust-eval`` in an empty folder: (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["robust-eval", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return run


def test_without_ray_the_message_names_the_extra(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, shown = call("run", str(TRAINED), "--data", "digits", "--eps", "0.1", "--executor", "ray")
    assert code == 2
    assert 'pip install "robust-eval[ray]"' in shown
    assert len(shown.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "dask"], "Unknown executor 'dask'. Use local or ray."),
        (["--worker-gpus", "1"], "--address, --worker-gpus and --worker-memory need --executor ray."),
        (["--worker-memory", "4"], "--address, --worker-gpus and --worker-memory need --executor ray."),
        (["--workers", "0"], "--workers must be at least 1, got 0."),
        (["--worker-cpus", "0"], "--worker-cpus must be at least 1, got 0."),
        (["--shard", "17/16"], "--shard 17/16 is out of range: shards count from 1 to 16."),
        (["--shard", "1/0"], "--shard 1/0 is out of range: shards are at least one"),
        (["--shard", "1/2", "--blocks", "3"], "--shard 1/2 already plans 2 shards: leave --shards out."),
        (["--shard", "1/2", "--diagnose"], "--diagnose needs the whole run: leave it out, merge the shards"),
        (["--shard", "3of16"], "--shard '3of16' is not I/N"),
        (["--executor", "ray", "--suite", "fulll"], "Did you mean full"),
        (["--executor", "ray", "--workers", "0"], "--workers must be at least 1, got 0."),
        (["--executor", "ray", "--worker-cpus", "0"], "--worker-cpus must be at least 1, got 0."),
        (["--executor", "ray", "--worker-gpus", "-1"], "--worker-gpus must be 0 or more, got -1."),
        (["--executor", "ray", "--worker-gpus", "1.5"], "--worker-gpus 1.5: a part of one GPU"),
        (["--executor", "ray", "--worker-memory", "0"], "--worker-memory must be above 0 GiB."),
        (["--executor", "ray", "--device", "cuda:1"], "Ray assigns the devices"),
        (["--suite", "clean", "--suite", "fulll"], "Did you mean full"),
        (["--suite", "quick", "--suite", "quick"], "named twice with the same suite"),
        (["--suite", "quick", "--suite", "full", "--dry-run"], "--dry-run plans one checkpoint and suite"),
    ],
)
def test_invalid_options_are_refused_in_one_line(call: Call, words: list[str], message: str) -> None:
    pytest.importorskip("ray")
    code, shown = call("run", str(TRAINED), "--data", "digits", "--eps", "0.1", *words)
    assert code == 2
    assert message in shown
    assert len(shown.strip().splitlines()) == 1


def test_a_cluster_with_other_versions_is_refused() -> None:
    text = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.1\n    Python: 3.9.18\n"
        "This process on node was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    shown = str(ray_cluster._refused(RuntimeError(text)))
    assert shown.startswith(
        "The cluster runs other versions (Ray 2.9.1, Python 3.9.18) than this process (Ray "
    )
    assert "\n" not in shown
    token = RuntimeError(
        "Failed to connect to GCS.\nRPC error: InvalidAuthToken: token is missing or incorrect"
    )
    assert str(ray_cluster._refused(token)).startswith(
        "The cluster requires a token: set RAY_AUTH_MODE=token"
    )
    assert str(ray_cluster._refused(RuntimeError("no\nmore"))) == "Ray refused to connect: no."


def node_report(**changes: Any) -> dict[str, Any]:
    ours = {name: ray_cluster.installed(name) for name in ("robust-eval", "torch")}
    return {"python": "3.11", "versions": {**ours, **changes.pop("versions", {})}, "missing": [], **changes}


def test_nodes_with_other_versions_are_refused() -> None:
    old = node_report(versions={"robust-eval": "0.0.1"})
    with pytest.raises(UserError, match=r"Node b \(and 1 more nodes\) has robust-eval 0.0.1, this process"):
        ray_nodes.compare({"a": node_report(), "b": old, "c": old}, {})
    with pytest.raises(UserError, match="Node b has no torch, this process .*: install the same on every"):
        ray_nodes.compare({"b": node_report(versions={"torch": "none"})}, {})


def test_nodes_without_access_to_the_files_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "x.pt"
    checkpoint.touch()
    blind = node_report(missing=[str(checkpoint)])
    with pytest.raises(
        UserError, match=f"Worker nodes b, c cannot read the checkpoint {checkpoint}: put it on"
    ):
        ray_nodes.compare({"a": node_report(), "b": blind, "c": blind}, {str(checkpoint): "the checkpoint"})
    gone = str(tmp_path / "gone.npz")
    with pytest.raises(UserError, match=f"^{gone} does not exist.$"):
        ray_nodes.compare({"a": node_report(missing=[gone])}, {gone: "the data"})


def test_files_that_nodes_must_have_access_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed = EvaluationOptions(
        checkpoint="a.pt", data="npz:x.npz", arch="net.py:build", suite="mine.toml,aa", data_root=tmp_path
    )
    found = ray_nodes.absolute(typed)
    assert found.command() == typed.command(), "the recorded command must not contain absolute paths"
    assert ray_nodes.paths(found) == {
        str(tmp_path / "a.pt"): "the checkpoint",
        str(tmp_path / "x.npz"): "the data",
        str(tmp_path / "net.py"): "the architecture",
        str(tmp_path / "mine.toml"): "the suite",
    }
    part = ray_nodes.absolute(EvaluationOptions(checkpoint="a.pt#ema", data="mnist", data_root=tmp_path))
    assert str(tmp_path / "a.pt") in ray_nodes.paths(part)
    zoo = ray_nodes.absolute(EvaluationOptions(checkpoint="robustbench:A", data="mnist", data_root=tmp_path))
    assert ray_nodes.paths(zoo) == {str(tmp_path): "the data"}


RESOURCES = {"CPU": 16.0, "GPU": 4.0, "memory": 64.0 * GIB}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            ClusterOptions(workers=8),
            "8 workers with 1 GPU each need 8, but the cluster has 4: lower --workers or",
        ),
        (ClusterOptions(gpus=8, workers=1), "1 worker with 8 GPUs each need 8, but the cluster has 4"),
        (ClusterOptions(cpus=8), "4 workers with 8 CPUs each need 32, but the cluster has 16"),
        (ClusterOptions(memory=32), "4 workers with 32 GiB each do not fit: the cluster has 64.0 GiB in all"),
    ],
)
def test_requests_beyond_the_resources_are_refused(wanted: ClusterOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ray_cluster._grant(wanted, "auto", RESOURCES)


def test_cuda_without_a_gpu_in_the_cluster_is_refused() -> None:
    with pytest.raises(UserError, match="--device cuda, but the cluster has no GPU"):
        ray_cluster._grant(ClusterOptions(), "cuda", {"CPU": 2.0, "memory": GIB})


def test_granted_resources() -> None:
    def granted(wanted: ClusterOptions, device: str = "auto") -> tuple[int, float, int, float]:
        found = ray_cluster._grant(wanted, device, RESOURCES)
        return found.workers, found.gpus, found.cpus, found.memory / GIB

    assert granted(ClusterOptions()) == (4, 1, 1, 2)
    assert granted(ClusterOptions(gpus=0.5)) == (8, 0.5, 1, 2)
    assert granted(ClusterOptions(cpus=2), "cpu") == (8, 0, 2, 2)
    assert granted(ClusterOptions(workers=16, gpus=0)) == (16, 0, 1, 2)
    assert ray_cluster._grant(ClusterOptions(), "cpu", {"CPU": 2.0, "memory": 2.0 * GIB}).memory == GIB


class RecordingRay:
    """Stores the arguments of ``init``."""

    def init(self, **given: Any) -> None:
        self.given = given


class FailingRay:
    """Cannot start."""

    stopped = False

    def init(self, **_: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen.\nMore")

    def shutdown(self) -> None:
        self.stopped = True


def test_a_private_cluster_that_cannot_start_is_reported_in_one_line() -> None:
    ray = FailingRay()
    with pytest.raises(UserError, match=r"^Ray could not start on this machine \(The current node timed .*$"):
        ray_cluster._start(ray, ClusterOptions(workers=1), "cpu", None, {})
    assert ray.stopped


@pytest.mark.parametrize(
    ("wanted", "cpus"),
    [
        (ClusterOptions(workers=1), 1),
        (ClusterOptions(workers=3, cpus=2), 6),
        (ClusterOptions(), 64),
        (ClusterOptions(cpus=5), 60),
    ],
)
def test_a_private_cluster_has_only_the_cpus_that_workers_need(
    wanted: ClusterOptions, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would start an idle process for each further CPU."""
    monkeypatch.setattr(ray_cluster.os, "cpu_count", lambda: 64)
    ray = RecordingRay()
    ray_cluster._start(ray, wanted, "cpu", None, {})
    assert ray.given["num_cpus"] == cpus
    resources = {"CPU": float(cpus), "memory": 64.0 * GIB}
    assert ray_cluster._grant(wanted, "cpu", resources).workers == (
        wanted.workers or 64 // (wanted.cpus or 1)
    )
