"""Batch size, compilation and precision of the attack copy: chosen once for a run folder, and recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from support.known_models import linear_problem

from robust_eval import attacks, evaluate
from robust_eval.core import request
from robust_eval.core.errors import UserError
from robust_eval.core.threat import parse_threat
from robust_eval.evaluation import attack_copy, run
from robust_eval.evaluation.checks import precision
from robust_eval.evaluation.in_memory import make_job
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning import settings, units
from robust_eval.evaluation.progress import displays
from robust_eval.models.acceleration import bfloat16, compilation, tuning
from robust_eval.models.acceleration.tuning import Tuning
from robust_eval.results import DisagreementRecord, SearchRecord, flags
from robust_eval.results.flags.from_record import from_search

CPU = torch.device("cpu")


@pytest.fixture
def job() -> Job:
    model, x, y = linear_problem(n=12)
    return make_job(model, x, y, parse_threat("Linf", "0.04"), "fgsm,pgd-10,spsa")


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Treat every run as long; the list has an entry for each measurement: whether it may compile."""
    compile_tried: list[bool] = []

    def measured(_build: object, _x: object, *, compile: bool, largest: object) -> Tuning:
        compile_tried.append(compile)
        return Tuning(7, 5, compile, False)

    monkeypatch.setitem(attack_copy.LONG, "cpu", 0.0)
    monkeypatch.setattr(tuning, "measure_tuning", measured)
    monkeypatch.setattr(
        tuning, "measure_step_tuning", lambda *_, compile: Tuning(9, 9, compile, near_rows=64)
    )
    return compile_tried


def choose(job: Job, mode: compilation.Mode, stored: str | None = None) -> attack_copy.AttackCopyConfig:
    return attack_copy.choose_config(job.request, job.model, job.x_NCHW, mode, stored)


def test_short_work_is_neither_measured_nor_compiled(job: Job) -> None:
    assert choose(job, "auto") == attack_copy.AttackCopyConfig()
    assert choose(job, "off") == attack_copy.AttackCopyConfig()


def test_planned_operations_are_counted(job: Job) -> None:
    """A linear layer needs 2 x pixels x classes operations; FGSM 2, PGD-10 20 and SPSA 25,700 passes."""
    logits, pixels = 2, job.x_NCHW[0].numel()
    costs = [attacks.cost(a, logits) for column in job.request.suite.columns for a in column.attacks]
    assert [c.forwards + c.backwards for c in costs] == [2, 20, 25_700]
    per_image = 2 * pixels * job.request.checkpoint.classes
    assert attack_copy.planned_flops(job.request, job.model, job.x_NCHW) == 12 * 25_722 * per_image


def test_long_work_is_measured_once_per_folder(job: Job, measurements: list[bool]) -> None:
    first = choose(job, "auto")
    assert first.tunings["float32"].rows == 7
    assert measurements == [not compilation.unavailable_reason(CPU)]
    assert first.stored is not None
    assert choose(job, "auto", first.stored) == first
    assert len(measurements) == 1, "the stored measurement must be used"
    choose(job, "auto", json.dumps({**json.loads(first.stored), "device": "another"}))
    assert len(measurements) == 2, "another device must be measured again"
    choose(job, "off", "{")
    assert measurements[2:] == [False]


def test_the_measurement_is_logged(job: Job, measurements: list[bool]) -> None:
    logged: list[str] = []
    stored = None
    for _ in range(2):
        found = attack_copy.choose_config(job.request, job.model, job.x_NCHW, "off", stored, logged.append)
        stored = found.stored
    assert len(logged) == len(measurements) == 1, "a stored tuning must not be logged"
    assert logged[0].startswith("Measuring how to call this model fastest")


@pytest.mark.usefixtures("measurements")
def test_a_run_shows_the_chosen_tuning(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "unavailable_reason", lambda _device: "there is no C++ compiler")
    console = Console(width=100)
    with console.capture() as shown, displays.of_console(console) as display:
        run.execute(replace(job, notes=("float32: no [units]",)), display=display)
    lines = [line for line in shown.get().splitlines() if line and not line.startswith(" ")]
    assert lines.pop(0).startswith("model  sha256 ")
    assert lines[0].startswith("Measuring how to call this model fastest")
    assert lines[1:3] == ["search: float32: no [units]", "search: not compiled: there is no C++ compiler"]
    assert lines[3].startswith("search: float32: 7 images a call")
    assert lines[4].startswith("clean: 12/12 done")


def test_measurements_use_at_most_the_largest_batch_of_the_run(job: Job) -> None:
    """SPSA splits its queries itself and always runs in float32; gradients are computed per unit."""
    assert attack_copy.largest_calls(job.request, "float32") == (None, 12)
    assert attack_copy.largest_calls(replace(job.request, batch_size=5), "float32") == (None, 5)
    low = replace(job.request, precision="bfloat16")
    assert attack_copy.largest_calls(low, "bfloat16") == (12, 12)
    assert attack_copy.largest_calls(low, "float32") == (None, 12)


def test_compiled_calls_are_not_padded_beyond_a_unit(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "default_tuning", lambda _device, _pixels: Tuning(100, 100))
    assert choose(job, "on").tunings["float32"] == Tuning(100, 12, True, True)


def low(job: Job) -> Job:
    return replace(job, request=replace(job.request, precision="bfloat16"))


def test_small_steps_use_activation_differences_in_a_bfloat16_run(job: Job, measurements: list[bool]) -> None:
    """A float32 run in the same folder, before or after, does not use this tuning."""
    stored = None
    for _ in range(2):
        plain = choose(job, "auto", stored)
        assert plain.tunings["float32"] == Tuning(7, 5, True)
        found = choose(low(job), "auto", plain.stored)
        stored = found.stored
        assert found.tunings == {"bfloat16": Tuning(7, 5, True), "float32": Tuning(9, 9, True, near_rows=64)}
        assert "float32: 9 images a call, compiled; small steps 64 a call, compiled" in found.notes
    assert len(measurements) == 2, "each precision must be measured once and stored separately"
    assert choose(job, "on").tunings["float32"].near_rows is None
    assert choose(low(job), "on").tunings["float32"].near_rows == 8192


def test_each_precision_is_measured(job: Job, measurements: list[bool]) -> None:
    found = choose(low(job), "off")
    assert set(found.tunings) == {"bfloat16", "float32"}, "SPSA must run in float32"
    assert any(note.startswith("bfloat16: 7 images a call; with gradients 5") for note in found.notes)


def test_without_a_compiler_auto_does_not_compile_and_gives_the_reason(
    job: Job, measurements: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "unavailable_reason", lambda _device: "there is no C++ compiler")
    found = choose(job, "auto")
    assert measurements == [False]
    assert "not compiled: there is no C++ compiler" in found.notes
    with pytest.raises(UserError, match="Compiling is not possible on this machine: there is no C"):
        compilation.parse("on", CPU)


def test_unknown_values_are_refused() -> None:
    with pytest.raises(UserError, match="Unknown compile mode 'yes'. Known: auto, off, on."):
        compilation.parse("yes", CPU)
    with pytest.raises(UserError, match="Unknown precision 'half'. Use float32, bfloat16 or auto."):
        settings.resolve_precision("half", CPU)


def test_auto_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "unsupported_reason", lambda _device: "")
    assert settings.resolve_precision("auto", CPU) == ("bfloat16", "")
    monkeypatch.setattr(bfloat16, "unsupported_reason", lambda _device: "no units")
    assert settings.resolve_precision("auto", CPU) == ("float32", "float32: no units")


def test_units_of_float32_attacks_have_the_same_key_under_every_precision(job: Job) -> None:
    low = replace(job.request, precision="bfloat16")
    by_id = {a.id: a for column in low.suite.columns for a in column.attacks}

    def key(request: request.Request, attack: str) -> str:
        return units.make_unit(request, attack, by_id[attack], 0, [0, 1]).key

    assert key(low, "spsa") == key(job.request, "spsa")
    assert key(low, "pgd-10") != key(job.request, "pgd-10")


def test_the_disagreement_is_measured_and_recorded() -> None:
    model, x, y = linear_problem(n=20)
    result = evaluate(model, x, y, "Linf 0.04", suite="fgsm,pgd-10,spsa", precision="bfloat16")
    assert result.suite.precision == "bfloat16"
    assert result.search is not None
    found = result.search.disagreement
    assert found is not None
    assert found.attacks == ("fgsm", "pgd-10"), "SPSA must run in float32"
    assert found.images == precision.sample_size(20) == 8
    assert found.verdicts == 16
    assert any("bfloat16" in note for note in result.search.notes)
    plain = evaluate(model, x, y, "Linf 0.04", suite="fgsm,pgd-10")
    assert plain.search is not None
    assert plain.search.disagreement is None


@pytest.mark.parametrize(("weaker", "stronger", "raised"), [(4, 0, False), (9, 6, False), (10, 1, True)])
def test_weaker_attacks_in_bfloat16_are_flagged(weaker: int, stronger: int, raised: bool) -> None:
    """Of 200 verdicts, a net difference of 4 (2%) can be chance; one of 9 is not."""
    counts = {"images": 100, "verdicts": 200, "weaker": weaker, "stronger": stronger}
    record = DisagreementRecord(attacks=("a", "b"), **counts)
    found = from_search(SearchRecord(notes=(), tunings={}, disagreement=record))
    assert [flag.id for flag in found] == ["reduced-precision"] * raised
    assert "reduced-precision" in flags.RULES


def test_only_short_attacks_are_repeated(job: Job) -> None:
    request = replace(job.request, precision="bfloat16")
    assert [attack.id for _, attack in precision.repeated(request)] == ["fgsm", "pgd-10"]
    assert precision.repeated(job.request) == []
