"""The bookkeeping of a request: any order of results, the same end; and how waves are cut into units."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.scripted_attacks import ScriptedHost, a_request, finished_columns, run_scripted

from robust_eval.core.request import Request
from robust_eval.evaluation.executors.run_states import with_evidence
from robust_eval.evaluation.planning import suites, units
from robust_eval.evaluation.planning.cascade import CascadeState, FinishedColumn
from robust_eval.evaluation.store import MemoryStore

SUITE = "fgsm,pgd-20,aa,union"


def request(**changes: object) -> Request:
    return a_request(suite=suites.load(SUITE), **changes)


def in_random_order(asked: Request, seed: int) -> dict[str, FinishedColumn]:
    cascade, host, draw = CascadeState(asked), ScriptedHost(asked), random.Random(seed)
    waiting = [unit for stage in cascade.start() for unit in stage.units]
    while waiting:
        unit = waiting.pop(draw.randrange(len(waiting)))
        if unit.key not in cascade.results:
            waiting += [u for stage in cascade.add(unit.key, host.run(unit)) for u in stage.units]
    assert cascade.done
    return cascade.finished


def essence(finished: dict[str, FinishedColumn]) -> object:
    return {name: (column.record, column.units) for name, column in finished.items()}


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_units_gives_the_same(seed: int) -> None:
    ordered = finished_columns(run_scripted(ScriptedHost(request())))
    assert essence(in_random_order(request(), seed)) == essence(ordered)


def test_an_attack_of_two_columns_is_one_unit() -> None:
    host = ScriptedHost(request())
    run_scripted(host)
    keys = [unit.key for unit in host.units]
    assert len(keys) == len(set(keys))


def test_evidence_comes_from_the_store_and_its_loss_is_an_error() -> None:
    (run,) = run_scripted(ScriptedHost(request()))
    assert run.running is not None
    column, store = run.running.cascade.finished["pgd-20"], run.running.opened.store
    assert [len(r.evidence) for r in column.stages[0].results] == [0, 0, 0], "the cascade keeps no images"
    found = with_evidence(column, store)
    assert [len(r.evidence) for r in found.stages[0].results] == [2, 0, 0]
    with pytest.raises(LookupError, match="units of PGD-20 are missing"):
        with_evidence(column, MemoryStore())


def sizes(n: int, **changes: object) -> list[int]:
    asked = a_request(batch_size=500, split=4, **changes)
    asked = replace(asked, data=replace(asked.data, n=10_000)) if n <= 10_000 else asked
    return [len(part) for part in units.split_into_batches(asked, range(n))]


def test_small_stages_are_cut_into_eight_but_never_below_a_quarter_batch() -> None:
    assert sizes(10_000) == [500] * 20
    assert sizes(1000) == [125] * 8
    assert sizes(2001) == [250, 250, 250, 250, 250, 250, 250, 251]
    assert sizes(300) == [150, 150]
    assert sizes(126) == [126]
    assert sizes(3) == [3]
    assert sizes(0) == []
    assert max(sizes(4100)) - min(sizes(4100)) <= 1, "no unit is a small rest"


def test_long_attacks_are_cut_as_finely_as_small_stages() -> None:
    asked = a_request(batch_size=500, split=4)
    assert [len(part) for part in units.split_into_batches(asked, range(10), units.LONG)] == [10]
    many = replace(asked, data=replace(asked.data, n=10_000))
    assert {len(part) for part in units.split_into_batches(many, range(10_000), units.LONG + 1)} == {125}
    assert {
        len(part) for part in units.split_into_batches(replace(many, split=1), range(10_000), units.LONG + 1)
    } == {500}


@pytest.mark.parametrize("n", [0, 1, 7, 124, 125, 501, 999, 4003, 10_000])
def test_every_example_is_in_one_unit(n: int) -> None:
    asked = a_request(batch_size=500, split=4, shards=3)
    asked = replace(asked, data=replace(asked.data, n=10_000))
    parts = units.split_into_batches(asked, range(n))
    assert [index for part in parts for index in part] == list(range(n))
    for part in parts:
        assert (
            len({b for b in range(3) for i in (part[0], part[-1]) if i in units.shard_examples(asked, b)})
            == 1
        )


def test_shards_can_be_done_one_by_one() -> None:
    asked = request(shards=3)
    together, alone = ScriptedHost(asked), ScriptedHost(asked)
    run_scripted(together)
    for shard in (2, 0, 1):
        cascade = CascadeState(asked, shard)
        waiting = [unit for stage in cascade.start() for unit in stage.units]
        while waiting:
            unit = waiting.pop()
            if unit.key not in cascade.results:
                waiting += [u for stage in cascade.add(unit.key, alone.run(unit)) for u in stage.units]
    assert sorted(u.key for u in together.units) == sorted(u.key for u in alone.units)


def test_an_uncut_request_has_the_identity_it_always_had() -> None:
    assert not {"split", "blocks"} & set(a_request().identity())
    assert a_request(split=4).key != a_request().key != a_request(shards=2).key
