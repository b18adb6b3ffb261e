"""Units of work: how examples are packed into them, and what their keys depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.scripted_attacks import make_request

from robust_eval.core.request import Request
from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Normalisation
from robust_eval.evaluation.in_memory import make_job
from robust_eval.evaluation.planning import suites, units


def column(request: Request, name: str) -> object:
    return next(c for c in request.suite.columns if c.id == name)


def test_units_cover_every_example_once() -> None:
    found = units.clean_units(make_request())
    assert [unit.indices for unit in found] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert len({unit.key for unit in found}) == 3


def test_survivors_are_repacked_into_full_batches() -> None:
    request = make_request()
    found = units.stage_units(request, column(request, "aa"), 1, [1, 3, 4, 6, 8, 9])  # type: ignore[arg-type]
    assert [unit.indices for unit in found] == [(1, 3, 4, 6), (8, 9)]
    assert units.stage_units(request, column(request, "aa"), 1, []) == []  # type: ignore[arg-type]


def keys(request: Request) -> list[str]:
    return [u.key for u in units.stage_units(request, column(request, "pgd-20"), 0, range(10))]  # type: ignore[arg-type]


def test_keys_depend_on_everything_that_verdicts_depend_on() -> None:
    base = make_request()
    assert keys(base) == keys(make_request())
    checkpoint = base.checkpoint
    for changed in (
        replace(base, seed=1),
        replace(base, threat=parse_threat("Linf", "0.031")),
        replace(base, threat=parse_threat("L2", "8/255")),
        replace(base, precision="bfloat16"),
        replace(base, data=replace(base.data, fingerprint="ef" * 32)),
        replace(base, checkpoint=replace(checkpoint, sha256="00" * 32)),
        replace(base, checkpoint=replace(checkpoint, normalisation=Normalisation("2x-1", (0.5,), (0.5,)))),
        replace(base, libraries=tuple((name, "2") for name, _ in base.libraries)),
    ):
        assert not set(keys(changed)) & set(keys(base))


def test_keys_do_not_depend_on_anything_else() -> None:
    base = make_request()
    renamed = replace(base, checkpoint=replace(base.checkpoint, name="other.pt", notes=("probed",)))
    assert keys(renamed) == keys(base)
    narrower = replace(base, suite=suites.load("pgd-20"))
    assert keys(narrower) == keys(base), "a unit computed for one suite is used by another"


def test_every_unit_has_its_own_seed() -> None:
    request = make_request()
    found = units.stage_units(request, column(request, "pgd-20"), 0, range(10))  # type: ignore[arg-type]
    assert len({unit.seed for unit in found}) == len(found)
    assert all(0 <= unit.seed < 2**31 for unit in found)


def test_automatic_batch_sizes() -> None:
    assert units.auto_batch_size((1, 8, 8), "cpu") == 500
    assert units.auto_batch_size((1, 28, 28), "cpu") == units.auto_batch_size((3, 32, 32), "cpu") == 100
    assert units.auto_batch_size((3, 32, 32), "cuda") == 500
    # Images of 224x224 of a cheap network: 1,000 would take 600 MB.
    assert units.auto_batch_size((3, 224, 224), "cpu", 1) == 111
    assert units.auto_batch_size((3, 64, 64), "cpu", 1) == 1000
    sizes = [units.auto_batch_size((1, 28, 28), "cpu", operations) for operations in (1, 2_500_000, 10**9)]
    assert sizes == [1000, 400, 100], "A small network does not outweigh the cost of calling it."


def test_units_are_worth_their_fixed_cost() -> None:
    """Of a tiny network, of two convolutions, and of a large network."""
    tiny, small, large = (
        units.auto_unit_sizes(shape, "cpu", operations)
        for shape, operations in (((1, 8, 8), 50_000), ((1, 28, 28), 1_200_000), ((3, 32, 32), 10**9))
    )
    assert tiny == units.UnitSizes(500, 1, 20)
    assert small == units.UnitSizes(800, 8, 32)
    assert large == units.UnitSizes(100, 8, 100)
    assert units.auto_unit_sizes((3, 32, 32), "cuda", 10**9) == units.UnitSizes(500, 4)


@pytest.mark.parametrize(
    ("operations", "sizes", "long_sizes"),
    [(50_000, [60], [30, 30]), (1_200_000, [60], [30, 30]), (10**9, [12] * 5, [1] * 60)],
)
def test_sixty_survivors_are_cut_by_cost(operations: int, sizes: list[int], long_sizes: list[int]) -> None:
    found = units.auto_unit_sizes((1, 28, 28), "cpu", operations)
    request = replace(
        make_request(),
        batch_size=found.batch_size,
        split=found.split,
        long_split=found.long_split,
        data=replace(make_request().data, n=60),
    )
    assert [len(batch) for batch in units.split_into_batches(request, range(60))] == sizes
    assert [len(batch) for batch in units.split_into_batches(request, range(60), 26_000)] == long_sizes


def test_the_automatic_batch_size_follows_from_the_network() -> None:
    x, y = torch.rand(3, 1, 28, 28), torch.zeros(3, dtype=torch.int64)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    assert make_job(linear, x, y, "Linf 0.1", "fgsm").request.batch_size == 1000
    deep = torch.nn.Sequential(torch.nn.Conv2d(1, 64, 5), torch.nn.Conv2d(64, 8, 24), torch.nn.Flatten())
    assert make_job(deep, x, y, "Linf 0.1", "fgsm").request.batch_size == 400


def test_networks_of_one_file_have_different_keys() -> None:
    plain = make_request()
    ema = replace(plain, checkpoint=replace(plain.checkpoint, name="m.pt#ema"))
    assert "part" not in plain.identity()["checkpoint"], "the key of a file with one network must not change"
    assert ema.identity()["checkpoint"]["part"] == "ema"
    assert plain.key != ema.key
    assert not set(keys(ema)) & set(keys(plain))
