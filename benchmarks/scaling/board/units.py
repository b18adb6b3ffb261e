"""The units of a board, wave by wave, as ``robust_eval.evaluation.planning.units`` cuts them."""

from __future__ import annotations

from dataclasses import dataclass

from robust_eval import attacks
from robust_eval.core.request import Request
from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Architecture, CheckpointRef, Column, Normalisation, Slice
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.units import SPLIT, pack

QUERIES = 8192
"""Of SPSA in one call."""
# Fractions of all images that are left: AT-AWP, Table 2 of the AWP paper; the phases of AutoAttack between
# its PGD-100 and AutoAttack columns are ours, FAB and Square all but empty as is usual.
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


def board_request(number: int, *, split: int = SPLIT) -> Request:
    """``full`` on all of CIFAR-10's test images, as the command plans it on a GPU."""
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
    """Of the network, for all its images together."""


class Board:
    """Which units a run has, wave by wave; equal for all runs."""

    def __init__(self, request: Request, *, long_cut: bool = True) -> None:
        self._long_cut = long_cut
        n = request.data.n
        self.columns: list[list[list[Piece]]] = []
        right = round(LEFT["clean"] * n)
        self.clean = [Piece(0, -1, 0, len(part), 1.0, 1.0) for part in pack(request, range(n))]
        for number, column in enumerate(c for c in request.suite.columns if c.attacks):
            self.columns.append(self._column(request, number, column, right))

    def _column(self, request: Request, number: int, column: Column, right: int) -> list[list[Piece]]:
        waves, left = [], right
        for stage, attack in enumerate(column.attacks):
            cost = attacks.cost(attack, request.checkpoint.classes)
            passes = float(cost.forwards + cost.backwards)
            after = min(left, round(LEFT[attack.id] * request.data.n))
            if attack.family == "spsa" or attack.id == "square":
                # These stop for an image as soon as it is broken: half of the way, say.
                passes *= (after + 0.5 * (left - after)) / max(left, 1)
            cut = pack(request, range(left), int(cost.forwards + cost.backwards) if self._long_cut else 0)
            waves.append(
                [
                    # SPSA puts the queries of many images into one call.
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
        return waves
