"""Cascades give the same result in any order of units; stages are split into units of suitable size."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.scripted_attacks import ScriptedHost, finished_columns, make_request, run_scripted

from robust_eval.core.request import Request
from robust_eval.evaluation.executors.run_states import broken_parts
from robust_eval.evaluation.planning import suites, units
from robust_eval.evaluation.planning.cascade import CascadeState, FinishedColumn
from robust_eval.evaluation.store import MemoryStore

SUITE = "fgsm,pgd-20,aa,union"


def suite_request(**changes: object) -> Request:
    return make_request(suite=suites.load(SUITE), **changes)


def in_random_order(wanted: Request, seed: int) -> dict[str, FinishedColumn]:
    cascade, host, draw = CascadeState(wanted), ScriptedHost(wanted), random.Random(seed)
    waiting = [unit for stage in cascade.start() for unit in stage.units]
    while waiting:
        unit = waiting.pop(draw.randrange(len(waiting)))
        if unit.key not in cascade.results:
            waiting += [u for stage in cascade.add(unit.key, host.run(unit)) for u in stage.units]
    assert cascade.done
    return cascade.finished


def content(finished: dict[str, FinishedColumn]) -> object:
    return {name: (column.record, column.units) for name, column in finished.items()}


@pytest.mark.parametrize("seed", range(5))
def test_the_result_does_not_depend_on_the_order_of_units(seed: int) -> None:
    ordered = finished_columns(run_scripted(ScriptedHost(suite_request())))
    assert content(in_random_order(suite_request(), seed)) == content(ordered)


def test_units_shared_by_two_columns_are_computed_once() -> None:
    host = ScriptedHost(suite_request())
    run_scripted(host)
    keys = [unit.key for unit in host.units]
    assert len(keys) == len(set(keys))


def test_evidence_is_read_from_the_store_and_missing_evidence_is_an_error() -> None:
    (run,) = run_scripted(ScriptedHost(suite_request()))
    assert run.running is not None
    column, store = run.running.cascade.finished["pgd-20"], run.running.opened.store
    assert [len(r.evidence) for r in column.stages[0].results] == [0, 0, 0], (
        "the cascade must not keep images"
    )
    found = broken_parts(column, store)
    assert [len(part.indices) for part in found] == [len(part.read()) for part in found] == [2, 0, 0]
    with pytest.raises(LookupError, match="units of PGD-20 are missing"):
        broken_parts(column, MemoryStore())


def sizes(n: int, **changes: object) -> list[int]:
    wanted = make_request(batch_size=500, split=4, **changes)
    wanted = replace(wanted, data=replace(wanted.data, n=10_000)) if n <= 10_000 else wanted
    return [len(part) for part in units.split_into_batches(wanted, range(n))]


def test_small_stages_are_split_into_at_most_eight_units_of_at_least_a_quarter_batch() -> None:
    assert sizes(10_000) == [500] * 20
    assert sizes(1000) == [125] * 8
    assert sizes(2001) == [250, 250, 250, 250, 250, 250, 250, 251]
    assert sizes(300) == [150, 150]
    assert sizes(126) == [126]
    assert sizes(3) == [3]
    assert sizes(0) == []
    assert max(sizes(4100)) - min(sizes(4100)) <= 1, "the sizes of units must differ by at most one"


def test_long_attacks_have_units_of_a_quarter_batch() -> None:
    wanted = make_request(batch_size=500, split=4)
    assert [len(part) for part in units.split_into_batches(wanted, range(10), units.LONG)] == [10]
    many = replace(wanted, data=replace(wanted.data, n=10_000))
    assert {len(part) for part in units.split_into_batches(many, range(10_000), units.LONG + 1)} == {125}
    assert {
        len(part) for part in units.split_into_batches(replace(many, split=1), range(10_000), units.LONG + 1)
    } == {500}


@pytest.mark.parametrize("n", [0, 1, 7, 124, 125, 501, 999, 4003, 10_000])
def test_every_example_is_in_one_unit(n: int) -> None:
    wanted = make_request(batch_size=500, split=4, shards=3)
    wanted = replace(wanted, data=replace(wanted.data, n=10_000))
    parts = units.split_into_batches(wanted, range(n))
    assert [index for part in parts for index in part] == list(range(n))
    for part in parts:
        assert (
            len({b for b in range(3) for i in (part[0], part[-1]) if i in units.shard_examples(wanted, b)})
            == 1
        )


def test_shards_run_one_by_one_have_the_units_of_a_joint_run() -> None:
    wanted = suite_request(shards=3)
    together, one_by_one = ScriptedHost(wanted), ScriptedHost(wanted)
    run_scripted(together)
    for shard in (2, 0, 1):
        cascade = CascadeState(wanted, shard)
        waiting = [unit for stage in cascade.start() for unit in stage.units]
        while waiting:
            unit = waiting.pop()
            if unit.key not in cascade.results:
                waiting += [u for stage in cascade.add(unit.key, one_by_one.run(unit)) for u in stage.units]
    assert sorted(u.key for u in together.units) == sorted(u.key for u in one_by_one.units)


def test_defaults_of_split_and_shards_are_not_in_the_identity() -> None:
    assert not {"split", "blocks"} & set(make_request().identity())
    assert make_request(split=4).key != make_request().key != make_request(shards=2).key
