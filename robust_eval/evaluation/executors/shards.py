"""A run in parts, without a cluster: one block of the examples each, on any machine at any time; then merged.

A request with 16 blocks never puts examples of two blocks into one unit. Its blocks can therefore be done
apart, and what comes out is, unit for unit, what one process makes of the same request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.core.request import Request
from robust_eval.core.types import UnitResult, WorkUnit
from robust_eval.evaluation import result_writer, unit_loop
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.display import Silent
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.store import FolderStore, exclusive, open_run
from robust_eval.results import DisagreementRecord, EvalResult, SearchRecord, flags

FILE = "shard.json"
_SUFFIX = re.compile(r"\.shard-(\d+)-of-(\d+)$")


@dataclass(frozen=True)
class Shard:
    """What a finished shard's folder says of itself."""

    number: int
    """Its block, counted from 0."""
    request: Request
    look: ModelReport
    command: str


_ADAPTER = TypeAdapter(Shard)


def parse(text: str) -> tuple[int, int]:
    """``3/16`` as (2, 16): blocks are counted from 0, shards from 1."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if found is None:
        raise UserError(f"--shard '{text}' is not I/N: write for example --shard 3/16.")
    number, of = int(found[1]), int(found[2])
    if not 1 <= number <= of:
        most = f"count from 1 to {of}" if of else "are at least one: 1/1 is everything"
        raise UserError(f"--shard {text} is out of range: shards {most}.")
    return number - 1, of


def folder(run: Path, only: int | None, blocks: int) -> Path:
    """``<run>.shard-3-of-16``, or the run's own folder."""
    return run if only is None else run.with_name(f"{run.name}.shard-{only + 1}-of-{blocks}")


def write(place: Path, request: Request, number: int, look: ModelReport, command: str) -> None:
    """Say that a shard is complete, and of what."""
    content = _ADAPTER.dump_json(Shard(number, request, look, command), indent=1, by_alias=True)
    write_text(place / FILE, content.decode() + "\n")


def read(place: Path) -> Shard:
    """Raises :class:`UserError` for a folder that is no finished shard."""
    if not place.is_dir():
        raise UserError(f"{place} is no folder. Give the folders that --shard wrote.")
    try:
        shard = _ADAPTER.validate_json((place / FILE).read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{place} holds no finished shard ({FILE} is missing): give its command with --shard again."
        ) from None
    except ValidationError as error:
        raise UserError(
            f"{place / FILE} is damaged ({error.errors()[0]['msg']}): run the shard again."
        ) from None
    return shard


def merge(places: Sequence[Path], out: Path | None) -> tuple[Path, EvalResult]:
    """Put the shards of one request together; returns the run folder and its row.

    Raises :class:`UserError` where shards are missing, come twice or belong to different requests.
    """
    found = [(place, read(place)) for place in places]
    request = _same_request(found)
    by_number: dict[int, Path] = {}
    for place, shard in found:
        if shard.number in by_number:
            raise UserError(
                f"Shard {shard.number + 1}/{request.shards} is there twice: {by_number[shard.number]} and "
                f"{place}. Give it once."
            )
        by_number[shard.number] = place
    missing = [str(number + 1) for number in range(request.shards) if number not in by_number]
    if missing:
        named = ", ".join([*missing[:8], *(["..."] if missing[8:] else [])])
        raise UserError(
            f"Of {request.shards} shards these are missing: {named}. Run them, or give their folders too."
        )
    target = out or _target(places)
    same_model.check_all(list(by_number.values()))
    with exclusive(target):
        store = _Gathering(open_run(target, request.identity()), list(by_number.values()))
        finished = dict(unit_loop.run(request, _Nobody(), store, Silent()))
        command = found[0][1].command
        look = _joined([shard.look for _, shard in found])
        return target, result_writer.write(request, finished, look, target, command, target)


def _same_request(found: Sequence[tuple[Path, Shard]]) -> Request:
    first_place, first = found[0]
    wanted = first.request.identity()
    for place, shard in found[1:]:
        ours = shard.request.identity()
        differing = [name for name in {**wanted, **ours} if wanted.get(name) != ours.get(name)]
        if differing:
            raise UserError(
                f"{place} and {first_place} are shards of different requests (they differ in: "
                f"{', '.join(differing)}). Merge the shards of one command."
            )
    return first.request


def _target(places: Sequence[Path]) -> Path:
    names = {place.resolve().parent / _SUFFIX.sub("", place.resolve().name) for place in places}
    if len(names) != 1 or not all(_SUFFIX.search(place.resolve().name) for place in places):
        raise UserError("Where should the merged run go? Add --out FOLDER.")
    return names.pop()


class _Gathering:
    """A run folder that fetches units from the shards' folders when they are asked for."""

    def __init__(self, target: FolderStore, places: Sequence[Path]) -> None:
        self._target = target
        self._shards = [FolderStore(place) for place in places]

    def get(self, key: str) -> UnitResult | None:
        for store in (self._target, *self._shards):
            result = store.get(key)
            if result is not None:
                if store is not self._target:
                    self._target.put(key, result)
                return result
        return None

    def put(self, key: str, result: UnitResult) -> None:
        self._target.put(key, result)


class _Nobody:
    """Merging attacks nothing."""

    def run(self, unit: WorkUnit) -> UnitResult:
        name = "clean" if unit.attack is None else unit.attack.id
        raise UserError(
            f"A unit of {name} on examples {unit.indices[0]} to {unit.indices[-1]} is missing or damaged: "
            "give that shard's command again, then merge."
        )


def _joined(looks: Sequence[ModelReport]) -> ModelReport:
    """One look out of several machines': all their flags, all their devices, counts added up."""
    devices = " and ".join(dict.fromkeys(look.environment.device for look in looks))
    environment = looks[0].environment.model_copy(update={"device": devices})
    found = flags.distinct([flag for look in looks for flag in look.flags])
    searches = [look.search for look in looks if look.search is not None]
    if not searches:
        return ModelReport(found, environment)
    notes = tuple(dict.fromkeys(note for search in searches for note in search.notes))
    measured = [search.disagreement for search in searches if search.disagreement is not None]
    counts = ("images", "verdicts", "weaker", "stronger")
    sums = {name: sum(getattr(one, name) for one in measured) for name in counts}
    record = DisagreementRecord(attacks=measured[0].attacks, **sums) if measured else None
    tunings = {name: way for search in reversed(searches) for name, way in search.tunings.items()}
    return ModelReport(found, environment, SearchRecord(notes=notes, tunings=tunings, disagreement=record))


__all__ = ["FILE", "Shard", "folder", "merge", "parse", "read", "write"]
