"""The units of an evaluation, by stage, divided by ``robust_eval.evaluation.planning.units``."""

from __future__ import annotations

from dataclasses import dataclass

from robust_eval import attacks
from robust_eval.core.request import Request
from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Architecture, CheckpointRef, Column, Normalisation, Slice
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.units import auto_unit_sizes, split_into_batches

QUERIES = 8192
"""SPSA queries per call of the network."""
# Fractions of all images that are still robust after each attack: AT-AWP in Table 2 of the AWP paper. For
# the stages of AutoAttack, values between its columns PGD-100 and AutoAttack are assumed; FAB and Square
# break few images.
LEFT = {
    "clean": 0.8557,
    "fgsm": 0.629,
    "pgd-20": 0.5814,
    "pgd-100": 0.5794,
    "cw-inf": 0.5596,
    "spsa": 0.62,
    "apgd-ce": 0.575,
    "apgd-t": 0.5406,
    "fab-t": 0.5405,
    "square": 0.5404,
}


SPLIT = auto_unit_sizes((3, 32, 32), "cuda").split


def board_request(number: int, *, split: int = SPLIT) -> Request:
    """The request of ``full`` on all CIFAR-10 test images, as planned for a GPU."""
    suite = suites.load("full")
    families = sorted({attack.family for column in suite.columns for attack in column.attacks})
    return Request(
        checkpoint=CheckpointRef(
            f"{number}.pt", f"{number:064d}", Architecture("wrn-34-10"), 10, Normalisation("none"), "foreign"
        ),
        data=Slice("cifar10", "test", 10_000, "0" * 64, tuple("0123456789"), "stored"),
        threat=parse_threat("Linf", "8/255"),
        suite=suite,
        batch_size=500,
        seed=0,
        libraries=tuple((name, "1") for name in families),
        split=split,
    )


@dataclass(frozen=True)
class Piece:
    """A unit of the simulation."""

    run: int
    column: int
    stage: int
    images: int
    passes: float
    calls: float
    """Calls of the network, for all images of the unit together."""


class Board:
    """The units of a run, by column and stage; the same for all runs."""

    def __init__(self, request: Request, *, long_cut: bool = True) -> None:
        self._long_cut = long_cut
        n = request.data.n
        self.columns: list[list[list[Piece]]] = []
        right = round(LEFT["clean"] * n)
        self.clean = [Piece(0, -1, 0, len(part), 1.0, 1.0) for part in split_into_batches(request, range(n))]
        for number, column in enumerate(c for c in request.suite.columns if c.attacks):
            self.columns.append(self._column(request, number, column, right))

    def _column(self, request: Request, number: int, column: Column, right: int) -> list[list[Piece]]:
        stages, left = [], right
        for stage, attack in enumerate(column.attacks):
            cost = attacks.cost(attack, request.checkpoint.classes)
            passes = float(cost.forwards + cost.backwards)
            after = min(left, round(LEFT[attack.id] * request.data.n))
            if attack.family == "spsa" or attack.id == "square":
                # These attacks stop when an image is broken; half of the passes is assumed for those.
                passes *= (after + 0.5 * (left - after)) / max(left, 1)
            cut = split_into_batches(
                request, range(left), int(cost.forwards + cost.backwards) if self._long_cut else 0
            )
            stages.append(
                [
                    # SPSA combines the queries of several images in one call.
                    Piece(
                        0,
                        number,
                        stage,
                        len(part),
                        passes,
                        passes * len(part) / QUERIES if attack.family == "spsa" else passes,
                    )
                    for part in cut
                ]
            )
            left = after
        return stages
