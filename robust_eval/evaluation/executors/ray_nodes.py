"""Check that the nodes of a cluster have the same versions and can read the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_eval.core.errors import UserError
from robust_eval.data import default_root
from robust_eval.evaluation.executors.ray_cluster import first_line, installed
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.models.loading import file_head

ANSWER_SECONDS = 120.0


def absolute(options: EvaluationOptions) -> EvaluationOptions:
    """The same options with absolute paths, which do not depend on the working directory."""

    def absolute_path(text: str) -> str:
        return str(Path(text).expanduser().absolute())

    changes: dict[str, Any] = {"data_root": Path(absolute_path(str(options.data_root or default_root())))}
    if file_head.is_file(options.checkpoint):
        changes["checkpoint"] = absolute_path(options.checkpoint)
    kind, _, rest = (options.data or "").partition(":")
    if kind in ("npz", "folder") and rest:
        changes["data"] = f"{kind}:{absolute_path(rest)}"
    file, colon, function = (options.arch or "").rpartition(":")
    if colon and file.endswith(".py"):
        changes["arch"] = f"{absolute_path(file)}:{function}"
    files = (".toml", ".py")
    suite = [absolute_path(part) if part.endswith(files) else part for part in options.suite.split(",")]
    return replace(options, **changes, suite=",".join(suite))


def paths(options: EvaluationOptions) -> dict[str, str]:
    """Paths that every node must read, with descriptions; ``options`` as :func:`absolute` returns them."""
    found = {}
    if file_head.is_file(options.checkpoint):
        found[str(file_head.split_source(options.checkpoint)[0])] = "the checkpoint"
    kind, _, rest = (options.data or "").partition(":")
    if kind in ("npz", "folder"):
        found[rest.partition("?")[0]] = "the data"
    elif options.data_root is not None and options.data_root.exists():
        # If it does not exist on this machine, the data are bundled or will be downloaded.
        found[str(options.data_root)] = "the data"
    file, colon, _ = (options.arch or "").rpartition(":")
    if colon and file.endswith(".py"):
        found[file] = "the architecture"
    return found | {part: "the suite" for part in options.suite.split(",") if part.endswith((".toml", ".py"))}


def inspect(wanted_paths: Mapping[str, str], gpus: float) -> None:
    """Check every node that could run a worker.

    Raises:
        UserError: names the nodes that have other versions or cannot read a file.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A local function, so that Ray sends its code: a node may have no robust-eval, or an older one.
    def describe(names: list[str]) -> dict[str, Any]:
        import importlib.metadata
        import os
        import platform

        versions = {}
        for name in ("robust-eval", "torch"):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = "none"
        missing = [name for name in names if not os.path.exists(name)]  # noqa: PTH110
        return {"python": platform.python_version(), "versions": versions, "missing": missing}

    kind = "GPU" if gpus else "CPU"
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(kind)]
    remote = ray.remote(num_cpus=0, max_retries=1)(describe)
    pending = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            list(wanted_paths)
        )
        for node in nodes
    ]
    names = [str(node["NodeManagerHostname"]) for node in nodes]
    try:
        answers = ray.get(pending, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        raise UserError(f"The cluster's nodes do not answer: {first_line(error)}.") from None
    compare(dict(zip(names, answers, strict=False)), wanted_paths)


def compare(answers: Mapping[str, Mapping[str, Any]], wanted_paths: Mapping[str, str]) -> None:
    """Raise UserError for nodes with other versions, or that cannot read a file."""
    for name in ("robust-eval", "torch"):
        own = installed(name)
        others = {node: a["versions"][name] for node, a in answers.items() if a["versions"][name] != own}
        if others:
            node, theirs = next(iter(others.items()))
            has = f"has no {name}" if theirs == "none" else f"has {name} {theirs}"
            more = f" (and {len(others) - 1} more nodes)" if len(others) > 1 else ""
            raise UserError(f"Node {node}{more} {has}, this process {own}: install the same on every node.")
    for path, what in wanted_paths.items():
        affected = [node for node, answer in answers.items() if path in answer["missing"]]
        if affected:
            raise UserError(_unreadable(affected, path, what, everywhere=len(affected) == len(answers)))


def _unreadable(nodes: Sequence[str], path: str, what: str, *, everywhere: bool) -> str:
    if everywhere and not Path(path).exists():
        return f"{path} does not exist."
    named = ", ".join(nodes[:5]) + (", ..." if nodes[5:] else "")
    return (
        f"Worker node{'s' * (len(nodes) > 1)} {named} cannot read {what} {path}: put it on a folder that all "
        "nodes share, under the same path."
    )
