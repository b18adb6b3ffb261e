"""Mean and standard deviation over several seeds of one recipe."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from defenses.training.trainer import TrainingOutcome
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic

MOST_SEEDS = 1000


@dataclass(frozen=True)
class SeedStatistics:
    """Statistics of one value over seeds; ``sd`` is the sample standard deviation, 0 for one seed."""

    mean: float
    sd: float
    lowest: float
    highest: float


def parse_seeds(text: str) -> tuple[int, ...]:
    """Distinct seeds from ``0,1,2`` or ``0-4``. Raises UserError otherwise."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            chosen = range(int(first), int(last) + 1) if dash else range(int(first), int(first) + 1)
            if len(seeds) + chosen.stop - chosen.start > MOST_SEEDS:
                raise UserError(f"--seeds {text} contains more than {MOST_SEEDS} seeds. Name fewer.")
            seeds += chosen
    except ValueError:
        raise UserError(f"--seeds {text} is not a list of seeds: write for example 0,1,2.") from None
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise UserError(f"--seeds {text} contains {repeated[0]} twice: write for example 0,1,2.")
    if not seeds:
        raise UserError(f"--seeds {text} contains no seed: write for example 0,1,2.")
    return tuple(seeds)


def seed_statistics(values: Sequence[float]) -> SeedStatistics:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return SeedStatistics(statistics.fmean(values), sd, min(values), max(values))


def summarise(outcomes: Sequence[TrainingOutcome]) -> dict[str, dict[str, SeedStatistics]]:
    """Statistics of every accuracy that all runs measured, by epoch (``best``, ``last``) and name."""
    table: dict[str, dict[str, SeedStatistics]] = {}
    for which in ("best", "last"):
        rows: list[dict[str, float]] = [getattr(outcome, which) for outcome in outcomes]
        shared = set.intersection(*(set(row) for row in rows))
        names = sorted(n for n in shared if n.endswith(("_clean", "_pgd", "_gap")))
        table[which] = {name: seed_statistics([row[name] for row in rows]) for name in names}
    return table


def write_summary(path: Path, seeds: Sequence[int], outcomes: Sequence[TrainingOutcome]) -> None:
    """Write the seeds, their run folders and the statistics as JSON."""
    summary = {
        "seeds": list(seeds),
        "runs": [outcome.folder.name for outcome in outcomes],
        **{
            which: {name: asdict(statistic) for name, statistic in by_name.items()}
            for which, by_name in summarise(outcomes).items()
        },
    }
    with atomic(path) as file:
        file.write((json.dumps(summary, indent=2) + "\n").encode())
