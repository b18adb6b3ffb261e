"""An audit finds relabelled examples, one where the run is repeated exactly, and passes other results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.forgeries import (
    Tensors,
    broken_everywhere,
    edit,
    flipped,
    relabel,
    reset_column,
    rewrite_evidence,
)
from support.published_runs import options_of, run, verified

from robust_eval.core.errors import UserError
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.evaluation.planning.units import stage_units
from robust_eval.results import read_result
from robust_eval.results.verification_record import AuditRecord
from robust_eval.verification import repetition
from robust_eval.verification.audit_plan import plan_audit
from robust_eval.verification.verify import verify_result

ALL = 10_000


def audited(folder: Path, n: int = ALL, seed: int = 5, **changes: Any) -> AuditRecord:
    found = verified(folder, audit=n, audit_seed=seed, **changes).audit
    assert found is not None
    return found


def on_another_machine(folder: Path) -> None:
    """The stored images differ in their last bits from those that this machine computes."""
    edit(folder, lambda value: value["environment"].update(platform="Other"))
    edit_last_bits(folder)


def edit_last_bits(folder: Path) -> None:
    """Change every stored image by the smallest amount."""

    def change(tensors: Tensors, _: dict[str, str]) -> None:
        for name in [name for name in tensors if name.endswith(".images")]:
            tensors[name] = np.nextafter(tensors[name], np.float32(0.5))

    rewrite_evidence(folder, change)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_an_unmodified_result_passes(original: Path, seed: int) -> None:
    """With its own seed every verdict and every stored image is repeated."""
    found = audited(original, seed=seed)
    assert found.passed
    assert (found.broken_own, found.contradicted) == ((), ())
    assert found.n == found.of == read_result(original / "result.json").worst_case.n_robust
    assert found.exact
    assert found.robust_alone[0] == 0
    assert len(found.robust_alone) == 3, "one fresh seed"
    assert found.forwards > 0
    assert found.backwards > 0


def test_an_audit_is_repeatable_and_its_seed_chooses_units(original: Path) -> None:
    one, again, other = (audited(original, 1, seed).model_dump() for seed in (5, 5, 1))
    for record in (one, again, other):
        del record["seconds"]
    assert one == again
    assert one != other


@pytest.mark.parametrize("count", [1, 8])
def test_relabelled_examples_are_found_by_the_audit_only(folder: Path, count: int) -> None:
    chosen = broken_everywhere(folder)[:count]
    assert len(chosen) == count
    relabel(folder, chosen)
    assert verified(folder).passed, "forward passes cannot find them"
    found = audited(folder)
    assert not found.passed
    assert found.contradicted == tuple(chosen)
    assert found.broken_own == tuple(chosen)
    record = verified(folder, audit=ALL, audit_seed=1)
    assert not record.passed


def test_an_example_relabelled_in_one_column_is_found(folder: Path) -> None:
    """Its worst case is unchanged."""
    chosen = broken_everywhere(folder)[0]
    edit(folder, lambda v: reset_column(v, "fgsm", flipped(v["columns"]["fgsm"]["robust_bits"], chosen)))

    def prune(tensors: Tensors, _: dict[str, str]) -> None:
        kept = tensors["fgsm.indices"] != chosen
        for kind in ("indices", "images"):
            tensors[f"fgsm.{kind}"] = tensors[f"fgsm.{kind}"][kept]

    rewrite_evidence(folder, prune)
    assert verified(folder).passed
    assert audited(folder).contradicted == (chosen,)


def test_a_relabelled_example_is_found_if_its_unit_is_repeated(folder: Path) -> None:
    """An audit of one robust example repeats one of two units."""
    chosen = broken_everywhere(folder)[:1]
    relabel(folder, chosen)
    found = {seed: audited(folder, 1, seed) for seed in range(4)}
    assert {record.passed for record in found.values()} == {True, False}
    for seed, record in found.items():
        plan = plan_audit(read_result(folder / "result.json"), 1, seed)
        assert record.passed == (chosen[0] not in plan.chosen)
        assert 1 <= record.n < record.of


@pytest.mark.parametrize(("count", "passed"), [(0, True), (1, True), (8, False)])
def test_on_another_machine_chance_is_allowed_for(folder: Path, count: int, passed: bool) -> None:
    chosen = broken_everywhere(folder)[:count]
    relabel(folder, chosen)
    on_another_machine(folder)
    found = audited(folder)
    assert found.passed == passed
    assert found.contradicted == ()
    assert found.images_equal < found.images
    assert found.robust_alone[0] == count
    assert len(found.robust_alone) == 4, "two fresh seeds"
    assert (found.p < 0.01) != passed


def test_an_edited_environment_does_not_excuse_a_relabelled_example(folder: Path) -> None:
    """The stored images show that the run is repeated exactly, whatever environment is recorded."""
    chosen = broken_everywhere(folder)[:1]
    relabel(folder, chosen)
    edit(folder, lambda value: value["environment"].update(device="NVIDIA H100", platform="Other"))
    assert audited(folder).contradicted == tuple(chosen)


@pytest.fixture(scope="module")
def cascade(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of a column with several attacks, of which the first and later ones break examples."""
    folder = tmp_path_factory.mktemp("cascade")
    for name in ("net.pt", "images.npz"):
        (folder / name).write_bytes((original / name).read_bytes())
    (folder / "many.toml").write_text(
        'title = "Many"\n'
        '[[attacks]]\nid = "one"\nfamily = "fgsm"\n'
        '[[attacks]]\nid = "two"\nfamily = "pgd"\nsteps = 3\n'
        '[[attacks]]\nid = "three"\nfamily = "pgd"\nsteps = 10\nrestarts = 3\n'
    )
    (folder / "suite.toml").write_text('version = 1\ncolumns = ["clean", "many.toml", "fgsm"]\n')
    broken = [a.n_broken for a in run(folder, suite=str(folder / "suite.toml")).columns["many"].attacks]
    assert broken[0] > 0
    assert sum(broken[1:]) > 0
    return folder


def test_every_unit_of_a_cascade_is_repeated_as_it_ran(cascade: Path) -> None:
    """Also in an audit of few examples, and if the record does not say what entered an attack."""
    result = read_result(cascade / "result.json")
    for n, seed in ((ALL, 0), (1, 0), (1, 1)):
        found = audited(cascade, n, seed)
        assert found.exact, found.text
        assert found.passed
        assert found.broken_own == ()
    plan = plan_audit(result, 1, 0)
    (many,) = (one for one in plan.columns if one.column.id == "many")
    attacks = result.columns["many"].attacks
    for stage, attack in enumerate(attacks):
        entered = many.entered(stage)
        assert entered is None or len(entered) == attack.n_attacked
    assert many.entered(0) == np.flatnonzero(parse_bits(result.columns["clean"].robust_bits)).tolist()
    assert many.entered(1) is None
    assert many.entered(len(attacks) - 1) is None or not attacks[-1].n_broken


def test_what_entered_an_attack_that_broke_nothing_follows_from_the_record(cascade: Path) -> None:
    result = read_result(cascade / "result.json")
    value = result.model_dump(mode="json")
    attacks = value["columns"]["many"]["attacks"]
    attacks[0]["n_broken"] += sum(attack["n_broken"] for attack in attacks[1:])
    for attack in attacks[1:]:
        attack["n_broken"] = 0
    edited = type(result).model_validate(value)
    (many,) = (one for one in plan_audit(edited, 1, 0).columns if one.column.id == "many")
    robust = np.flatnonzero(parse_bits(result.columns["many"].robust_bits)).tolist()
    assert [many.entered(stage) for stage in range(1, len(attacks))] == [robust] * (len(attacks) - 1)
    request = plan_audit(edited, 1, 0).request
    units = list(many.stages(request, set()))
    assert len(units[0]) == 1 < len(stage_units(request, many.column, 0, many.entered(0) or []))


def test_relabelled_examples_of_a_cascade(cascade: Path, tmp_path: Path) -> None:
    for file in cascade.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    chosen = broken_everywhere(tmp_path)[:2]
    relabel(tmp_path, chosen)
    assert verified(tmp_path).passed
    assert set(chosen) <= set(audited(tmp_path).contradicted)


def test_only_some_columns(original: Path) -> None:
    found = verified(original, audit=ALL, audit_seed=1, audit_suite="fgsm")
    assert found.audit is not None
    assert found.audit.columns == ("fgsm",)
    assert found.audit.of == read_result(original / "result.json").columns["fgsm"].n_robust
    assert "the audit did not repeat pgd-10" in found.trusted


def test_edited_last_bits_do_not_excuse_a_relabelled_example(folder: Path) -> None:
    chosen = broken_everywhere(folder)[:1]
    relabel(folder, chosen)
    edit_last_bits(folder)
    found = audited(folder)
    assert found.images_equal < found.images
    assert found.contradicted == tuple(chosen)


def test_few_equal_images_do_not_show_that_a_run_is_repeated() -> None:
    for images, equal, elsewhere, here in (
        (0, 0, False, True),
        (5, 5, False, True),
        (5, 4, False, False),
        (20, 20, True, True),
        (20, 19, False, True),
        (20, 18, False, False),
    ):
        column = repetition.RepeatedColumn(np.ones(3, dtype=np.bool_), {1}, images, equal, equal)
        assert column.contradicting == {1}
        assert column.exact(same_environment=False) == elsewhere
        assert column.exact(same_environment=True) == here


def test_audits_that_are_refused(original: Path, folder: Path) -> None:
    result = read_result(original / "result.json")
    with pytest.raises(UserError, match="--audit must be at least 1"):
        plan_audit(result, 0, 0)
    with pytest.raises(UserError, match="nothing to audit with: the suite has no attack"):
        plan_audit(result, 1, 0, "clean")
    with pytest.raises(UserError, match="no column aa with these attacks.*its columns: fgsm, pgd-10"):
        plan_audit(result, 1, 0, "fgsm,aa")
    with pytest.raises(UserError, match="--audit-suite chooses the columns of an audit: add --audit N"):
        verified(original, audit_suite="fgsm")
    value = json.loads((original / "result.json").read_text())
    value["columns"]["fgsm"]["attacks"][0]["version"] = 0
    with pytest.raises(UserError, match="fgsm is version 0 in the result and version 1 in this release"):
        plan_audit(type(result).model_validate(value), 1, 0)
    relabelled = json.loads((original / "result.json").read_text())
    for count in relabelled["columns"].values():
        count["robust_bits"] = "0" * len(count["robust_bits"])
    with pytest.raises(UserError, match="no example is robust"):
        plan_audit(type(result).model_validate(relabelled), 1, 0)


def test_an_audit_is_not_reached_if_a_check_fails(folder: Path) -> None:
    edit(folder, lambda value: value["suite"].update(seed=9))
    found = verified(folder, audit=3)
    assert found.audit is None
    assert "audit" in found.not_reached
    assert not found.passed


def test_the_cost_is_stated_before_and_after(original: Path) -> None:

    lines: list[str] = []
    options = options_of(original, audit=3, audit_seed=1)
    found = verify_result(original / "result.json", options, lines.append)
    (line,) = lines
    assert line.startswith("Audit: ")
    assert "with the row's own seed and one or two fresh ones. At most " in line
    assert found.audit is not None
    words = [word.replace(",", "") for word in line.split()]
    forwards = int(words[words.index("forward") - 1])
    assert found.audit.forwards <= forwards
    assert found.cost.endswith(f"; audit: {found.audit.cost}")
