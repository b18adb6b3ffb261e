"""Convert a result to RobustBench's ``model_info`` JSON, for submission to RobustBench."""

from __future__ import annotations

import re
from dataclasses import dataclass

from robust_eval.core.errors import UserError
from robust_eval.core.text import printable
from robust_eval.evaluation.planning import suites
from robust_eval.leaderboard.page.view_models import safe_link
from robust_eval.results import EvalResult, flags

# Dataset id to the number of images that RobustBench evaluates.
DATASETS = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
_NAMES = {"preact-resnet": "PreActResNet", "resnet": "ResNet", "wrn": "WideResNet", "vgg": "VGG"}


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Facts about the model that a result does not contain."""

    title: str
    additional_data: bool
    """Whether it was trained on more than the dataset's own training images."""
    authors: str = ""
    venue: str = ""
    link: str = ""


def model_info(result: EvalResult, paper: Paper) -> dict[str, object]:
    """The fields of RobustBench's README, section "Claim"; accuracies in percent, as text.

    ``autoattack_acc`` is the ``aa`` column, which must be the standard AutoAttack; ``reported`` is the worst
    case. Raises :class:`UserError` for a result that RobustBench does not accept.
    """
    data, aa = result.data, result.columns.get("aa")
    if data.name not in DATASETS or data.split != "test":
        raise UserError(
            f"RobustBench takes {', '.join(DATASETS)} (test images), not {data.name} ({data.split})."
        )
    if result.status == "partial" or aa is None:
        raise UserError("RobustBench requires AutoAttack. Complete a run with --suite full or aa.")
    standard = [(attack.family, attack.version, attack.params) for attack in suites.column("aa").attacks]
    if [(attack.family, attack.version, attack.params) for attack in aa.attacks] != standard:
        raise UserError("This result's aa column is not the standard AutoAttack. Evaluate with --suite aa.")
    if blocking := flags.blocking(result):
        names = ", ".join(flag.id for flag in blocking)
        raise UserError(f"This result has flags that block ranking and cannot be submitted: {names}.")
    if paper.link and safe_link(paper.link) is None:
        raise UserError(f"The paper's address '{printable(paper.link)}' is not an http or https address.")
    return {
        "link": paper.link,
        "name": paper.title,
        "authors": paper.authors,
        "additional_data": paper.additional_data,
        "number_forward_passes": 1,
        "dataset": data.name,
        "venue": paper.venue,
        "architecture": architecture_name(result.checkpoint.architecture.id),
        "eps": result.threat.eps,
        "clean_acc": _percent(result.columns["clean"].accuracy),
        "reported": _percent(result.worst_case.accuracy),
        "autoattack_acc": _percent(aa.accuracy),
        "footnote": _footnote(result),
        "unreliable": False,
    }


def architecture_name(architecture: str) -> str:
    """The name used in papers: ``wrn-34-10`` becomes ``WideResNet-34-10``; unknown ids are unchanged."""
    match = re.fullmatch(r"([a-z-]+?)-(\d+(?:-\d+)?)", architecture)
    return f"{_NAMES[match[1]]}-{match[2]}" if match and match[1] in _NAMES else architecture


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f}"


def _footnote(result: EvalResult) -> str:
    full = DATASETS[result.data.name]
    version, sha256 = result.environment.robust_eval, result.checkpoint.sha256
    parts = [f"Judged by robust-eval {version}, checkpoint sha256 {sha256}."]
    if result.data.n < full:
        parts.append(f"Measured on {result.data.n:,} images, not on RobustBench's {full:,}.")
    if len(result.columns) > 2:
        parts.append("The reported accuracy is the worst case over several attacks, example by example.")
    return " ".join(parts)
