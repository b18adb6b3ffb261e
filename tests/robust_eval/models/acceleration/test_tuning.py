"""How the attack copy calls the network: slices, padding, and measured tuning."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from robust_eval.attacks import _spsa
from robust_eval.models import architectures
from robust_eval.models.acceleration import compilation, tuning
from robust_eval.models.acceleration.attack_model import AttackCopy, query_steps
from robust_eval.models.acceleration.engine import Engine
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.acceleration.tuning import Tuning

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """Records its batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 16), requires_grad=False)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return x.flatten(1) @ self.weight.T


def gradient(search: AttackCopy, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(search(leaf).square().sum(), leaf)[0]


def test_slices_change_neither_logits_nor_gradients() -> None:
    network, x = Recorder(), torch.rand(11, 1, 4, 4)
    engines = {"forward": Engine(network, 4), "gradient": Engine(network, 3)}
    sliced, unsliced = AttackCopy(network, None, **engines), AttackCopy(network, None)
    torch.testing.assert_close(sliced(x), unsliced(x))
    torch.testing.assert_close(gradient(sliced, x), gradient(unsliced, x))
    assert network.sizes == [4, 4, 3, 11, 3, 3, 3, 2, 11]
    assert (sliced.forwards, sliced.backwards) == (22, 11)


def test_batches_are_padded_to_the_compiled_sizes_and_padding_is_not_counted() -> None:
    network, x = Recorder(), torch.rand(13, 1, 4, 4)
    engine = Engine(network, 8, (2, 8))
    search = AttackCopy(network, None, forward=engine, gradient=engine)
    torch.testing.assert_close(search(x), Recorder.forward(network, x))
    torch.testing.assert_close(search(x[:2]), network(x[:2]))
    assert network.sizes == [8, 2, 2, 2, 13, 2, 2]
    torch.testing.assert_close(gradient(search, x), gradient(AttackCopy(network, None), x))
    assert (search.forwards, search.backwards) == (28, 13)


@pytest.mark.parametrize(
    ("n", "taken"), [(400, 167), (167, 167), (160, 160), (100, 41), (59, 41), (41, 41), (18, 18), (0, 0)]
)
def test_the_rest_of_a_batch_needs_little_padding(n: int, taken: int) -> None:
    assert Engine(Recorder(), 167, (41, 167)).portion(n) == taken
    assert Engine(Recorder(), 167).portion(n) == min(n, 167), "without compiled sizes nothing is padded"
    assert Engine(Recorder()).portion(n) == n


def test_spsa_queries_need_little_padding() -> None:
    """256 queries per image are no multiple of 167: passed separately they would be padded to 334."""
    network = Recorder()
    search = AttackCopy(network, None, forward=Engine(network, 167, (41, 167)))
    x = torch.rand(40, 1, 28, 28)
    rows = _spsa.rows_per_call(CPU, 28 * 28)
    draw = torch.ones(40, 128, 1, 28, 28)
    _spsa.estimate(
        lambda at, steps: query_steps(search, at[..., :4, :4], steps[..., :4, :4]),
        x,
        torch.zeros(40, dtype=torch.long),
        lambda start, stop: draw[start:stop],
        pairs=128,
        delta=0.001,
        rows=rows,
    )
    assert search.forwards == 40 * 256
    assert sum(network.sizes) < 1.03 * search.forwards


def test_compiled_code_is_not_used_after_running_out_of_memory() -> None:
    network = Recorder()

    def greedy(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    search = AttackCopy(network, None, forward=Engine(greedy, 8, (8,)))
    assert search(torch.rand(8, 1, 4, 4)).shape == (8, 4)
    assert network.sizes == [4, 4]


def test_default_slices_fit_into_the_caches() -> None:
    assert tuning.default_tuning(CPU, 28 * 28) == Tuning(167, 167)
    assert tuning.default_tuning(CPU, 3 * 32 * 32) == Tuning(42, 42)
    assert tuning.default_tuning(CPU, 3 * 224 * 224).rows == 16
    assert tuning.default_tuning(torch.device("cuda"), 3072) == Tuning()


class Rates:
    """Prescribed images per second by (rows, compiled, gradient)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rates: dict[tuple[int, bool, bool], float]) -> None:
        self.rates = rates
        monkeypatch.setattr(tuning, "_rate", self.rate)

    def build(self, option: Tuning) -> AttackCopy:
        return AttackCopy(Recorder(), None, notes=("compiled",) * option.compiled)

    def rate(self, attack_copy: AttackCopy, _x: Tensor, rows: int, gradient: bool) -> float:
        return self.rates.get((rows, bool(attack_copy.notes), gradient), 1.0)

    def measured(self, *, compile: bool) -> Tuning:
        """The result for images of 16 values, for which 8192 rows are the default."""
        return tuning.measure_tuning(self.build, torch.rand(8, 1, 4, 4), compile=compile)


def test_the_fastest_rows_are_chosen_with_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(monkeypatch, {(16384, False, False): 2.0, (4096, False, True): 3.0})
    assert rates.measured(compile=False) == Tuning(16384, 4096)


def test_rows_are_limited_to_the_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code compiled for more images than a unit has would always be padded."""
    tried: list[tuple[int, bool]] = []

    def rate(_search: AttackCopy, _x: Tensor, rows: int, gradient: bool) -> float:
        tried.append((rows, gradient))
        return float(rows)

    monkeypatch.setattr(tuning, "_rate", rate)
    found = tuning.measure_tuning(
        lambda _tuning: AttackCopy(Recorder(), None),
        torch.rand(8, 1, 4, 4),
        compile=True,
        largest=(None, 5000),
    )
    assert {rows for rows, gradient in tried if gradient} == {4096, 5000}
    assert max(rows for rows, gradient in tried if not gradient) == 32768
    assert found == Tuning(32768, 5000), "a tie goes to the plain network"


@pytest.mark.parametrize(("rate", "wins"), [(1.9, False), (2.05, False), (2.2, True)])
def test_compiled_code_must_be_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, rate: float, wins: bool
) -> None:
    rates = Rates(monkeypatch, {(16384, False, False): 2.0, (16384, True, False): rate})
    found = rates.measured(compile=True)
    assert (found.rows, found.compiled, found.gradient_compiled) == (16384, wins, False)


def test_a_model_without_gradients_can_be_tuned() -> None:
    class Detached(Recorder):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    network = Detached()
    found = tuning.measure_tuning(
        lambda option: AttackCopy(network, None, gradient=Engine(network, option.rows)),
        torch.rand(8, 1, 4, 4),
        compile=False,
    )
    assert found.rows is not None


def test_operations_are_counted_for_one_image() -> None:
    network = architectures.build("small-cnn", classes=10, channels=1, image_size=(28, 28)).eval()
    operations = tuning.flops(network, torch.rand(3, 1, 28, 28))
    # 3x3 convolutions 1-32-32-64-64 on 26, 24, 10, 8 squared; then 1024-200-200-10.
    convolutions = 9 * (26**2 * 32 + 24**2 * 32 * 32 + 10**2 * 32 * 64 + 8**2 * 64 * 64)
    assert operations == 2 * (convolutions + 1024 * 200 + 200 * 210)


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert "no C++ compiler" in compilation.unavailable_reason(CPU)


@pytest.mark.slow
@pytest.mark.skipif(bool(compilation.unavailable_reason(CPU)), reason=compilation.unavailable_reason(CPU))
def test_compiled_code_gives_the_same_logits_and_gradients() -> None:
    torch.manual_seed(0)
    network = architectures.build("digits-cnn", classes=10, channels=1, image_size=(8, 8)).eval()
    x = torch.rand(21, 1, 8, 8)
    plain = make_attack_copy(network)
    quick = make_attack_copy(network, sample=x[:2], tuning=Tuning(16, 16, True, True))
    torch.testing.assert_close(quick(x), plain(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(quick, x), gradient(plain, x), rtol=1e-4, atol=1e-6)
