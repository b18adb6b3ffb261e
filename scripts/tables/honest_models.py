"""Honest models on which no flag may be raised: the boards' checkpoints, and small networks trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from robust_eval import data
from robust_eval.core.threat import Norm, ThreatModel
from robust_eval.evaluation.in_memory import evaluate
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute
from robust_eval.leaderboard.row import Row, companion, read_rows
from robust_eval.results import EvalResult
from robust_eval.verification.selftest.plain_network import digit_images
from scripts.tables.small_networks import NETWORKS, train

BOARDS = Path(__file__).resolve().parents[2] / "leaderboards"
SUITE = "fgsm,pgd-20,apgd-ce-t"
# Images of each dataset, enough for intervals below the threshold of too-few-examples.
EXAMPLES = {"digits": 360, "mnist": 300, "folder:cifar10-jpeg": 300}
_OTHER_NORM: dict[str, tuple[Norm, str]] = {
    "digits": ("L2", "0.5"),
    "folder:cifar10-jpeg": ("L2", "128/255"),
}
"""MNIST has none: networks that are trained for Linf mask their gradients in L2 there."""
SMALL_THREATS = (ThreatModel("Linf", Fraction("0.1")), ThreatModel("L2", Fraction("0.5")))


@dataclass(frozen=True)
class HonestModel:
    """A model and its evaluation."""

    name: str
    data: str
    threat: str
    run: Callable[[], EvalResult]

    @property
    def key(self) -> str:
        """Name and threat model."""
        return f"{self.name} @ {self.threat}"


def honest_models(root: Path) -> Iterator[HonestModel]:
    """All honest models; checkpoints of datasets that are not in ``root`` are left out."""
    for name in NETWORKS:
        for threat in SMALL_THREATS:
            text = f"{threat.norm} {float(threat.eps):g}"
            yield HonestModel(f"digits, {name}", "digits", text, partial(_small, name, threat))
    for board in sorted(BOARDS.iterdir()):
        if not (board / "results").is_dir():
            continue
        for row in read_rows(board):
            source = row.result.data.name
            if _present(source, root):
                stated, other = row.result.threat, _OTHER_NORM.get(source)
                for norm, eps in ((stated.norm, stated.eps), *((other,) if other else ())):
                    run = partial(_checkpoint, board, row, norm, eps, root)
                    yield HonestModel(f"{board.name}, {row.label}", source, f"{norm} {eps}", run)


def _present(source: str, root: Path) -> bool:
    """Whether the dataset is in the folder."""
    try:
        data.load(_spec(source, root), root=root)
    except Exception:
        return False
    return True


def _spec(source: str, root: Path) -> str:
    """``folder:NAME`` is a folder of ``root``."""
    kind, _, name = source.partition(":")
    return f"{kind}:{root / name}" if kind == "folder" else source


def _small(name: str, threat: ThreatModel) -> EvalResult:
    x_NCHW, y_N = digit_images()
    return evaluate(train(name, threat), x_NCHW, y_N, threat, SUITE, diagnose=True)


def _checkpoint(board: Path, row: Row, norm: str, eps: str, root: Path) -> EvalResult:
    options = EvaluationOptions(
        checkpoint=str(companion(board / row.file, ".pt")),
        data=_spec(row.result.data.name, root),
        data_root=root,
        suite=SUITE,
        examples=EXAMPLES[row.result.data.name],
        norm=norm,
        eps=eps,
        device="cpu",
    )
    return execute(prepare(options), diagnose=True)
