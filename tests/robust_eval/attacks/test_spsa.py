"""SPSA: the gradient estimate is unbiased, at the current iterate, with directions per image."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import ClassifierMixin, PyTorchClassifier
from art.estimators.estimator import BaseEstimator
from art.utils import check_and_transform_label_format
from numpy.typing import NDArray
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.attacks import _signs, _spsa
from robust_eval.core.logits import margin
from robust_eval.core.threat import NORMS, Norm, parse_threat
from robust_eval.models.acceleration.attack_model import query_steps

SHAPE = (2, 4, 4)
Images = NDArray[np.float32]


class Recorder(nn.Module):
    """A network that records its inputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        logits: Tensor = self.network(x)
        return logits


def linear(classes: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, classes)).requires_grad_(False)


def curved() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).requires_grad_(False)


def images(n: int) -> Tensor:
    return 0.2 + 0.6 * torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(2))


def draw(pairs: int, seed: int = 0) -> _spsa.Draw:
    def directions(start: int, stop: int) -> Tensor:
        signs = _signs.directions(seed, torch.arange(start, stop), 1, pairs, 32)
        return signs.float().view(-1, pairs, *SHAPE)

    return directions


def steps_of(model: nn.Module) -> _spsa.StepLogits:
    return partial(query_steps, model)


def cosine_with_truth(model: nn.Module, pairs: int) -> float:
    x = images(20)
    y = model(x).argmax(1)
    found = _spsa.estimate(steps_of(model), x, y, draw(pairs), pairs=pairs, delta=0.001, rows=512)
    leaf = x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(margin(model(leaf), y).sum(), leaf)
    return float(nn.functional.cosine_similarity(found.flatten(1), truth.flatten(1)).mean())


@pytest.mark.parametrize("make", [linear, curved])
def test_the_cosine_with_the_true_gradient_increases_with_the_samples(make: type[nn.Module]) -> None:
    cosines = [cosine_with_truth(make(), pairs) for pairs in (2, 16, 128, 1024)]
    assert cosines == sorted(cosines)
    assert cosines[0] < 0.5
    assert cosines[2] > 0.85
    assert cosines[3] > 0.97


def test_the_estimate_has_the_scale_of_the_gradient() -> None:
    model, x = linear(), images(4)
    y = model(x).argmax(1)
    found = _spsa.estimate(steps_of(model), x, y, draw(4096), pairs=4096, delta=0.001, rows=512)
    weight = model[1].weight  # type: ignore[index]  # nn.Sequential
    truth = torch.stack([weight[k] - weight[1 - k] for k in y.tolist()]).view_as(x)
    assert (found - truth).abs().max() < 0.1 * truth.flatten(1).norm(dim=1).min()


def test_every_estimate_is_taken_at_the_current_iterate() -> None:
    """Two public implementations query at 2x, or always at the clean image."""
    model, x = Recorder(linear()), images(1)
    y = model.network(x).argmax(1)
    settings = {"iterations": 5, "samples": 64, "delta": "0.001"}
    attacks.family("spsa").search(
        model,
        x,
        y,
        parse_threat("Linf", "0.03"),
        attacks.parse("spsa", settings),
        classes=2,
        seed=0,
    )
    queries, checks = model.inputs[0::2], model.inputs[1::2]
    assert [len(batch) for batch in queries] == [64] * 5
    iterate = x
    for batch, after in zip(queries, checks, strict=True):
        assert torch.allclose(batch.mean(0), iterate[0], atol=1e-6)
        assert torch.allclose((batch - iterate).abs(), torch.tensor(0.001), atol=1e-6)
        assert not torch.equal(after, iterate), "the iterate moves"
        iterate = after


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_does_not_depend_on_the_other_images(norm: Norm) -> None:
    """The second image of a unit, with the first broken at once or robust."""
    model = curved()
    x = images(2)
    y = model(x).argmax(1)
    first_broken = (y + torch.tensor([1, 0])) % 3
    settings = _spsa.SPSASettings(
        norm=norm, radius=0.02, iterations=8, samples=32, delta=0.001, learning_rate=0.01
    )
    both = _spsa.attack(model, x, y, settings, seed=4)
    after = _spsa.attack(model, x, first_broken, settings, seed=4)
    assert torch.equal(both[1], after[1])
    assert not torch.equal(both[0], after[0])


def test_a_broken_image_causes_no_further_queries() -> None:
    model, x = Recorder(curved()), images(6)
    y = model.network(x).argmax(1)
    params = attacks.parse("spsa", {"iterations": 30, "samples": 32})
    adv = attacks.family("spsa").search(model, x, y, parse_threat("Linf", "0.5"), params, classes=3, seed=0)
    assert (model.network(adv).argmax(1) != y).all()
    assert sum(map(len, model.inputs)) < 6 * attacks.cost(attacks.spec("spsa", "spsa", {}), 3).forwards / 10


@pytest.mark.parametrize("rows", [1, 7, 64, 100_000])
def test_the_number_of_rows_does_not_change_the_estimate(rows: int) -> None:
    model, x = Recorder(curved().double()), images(5).double()
    y = model.network(x).argmax(1)

    def exact(start: int, stop: int) -> Tensor:
        return draw(16)(start, stop).double()

    found = _spsa.estimate(steps_of(model), x, y, exact, pairs=16, delta=0.001, rows=rows)
    assert max(map(len, model.inputs)) <= max(rows, 2)
    model.inputs.clear()
    single_call = _spsa.estimate(steps_of(model), x, y, exact, pairs=16, delta=0.001, rows=10_000)
    assert torch.allclose(found, single_call, atol=1e-5)


def test_queries_with_nan_logits_are_ignored() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), torch.nan)

    x = images(2)
    adv = attacks.family("spsa").search(
        Broken(),
        x,
        torch.zeros(2, dtype=torch.long),
        parse_threat("Linf", "0.1"),
        attacks.parse("spsa", {"iterations": 2, "samples": 4}),
        classes=2,
        seed=0,
    )
    assert adv.isfinite().all()


class SPSAForART(EvasionAttack):  # type: ignore[misc]  # ART has no types
    """The ``spsa`` family with the interface of ART, for any ART classifier."""

    attack_params: ClassVar[list[str]] = ["settings", "seed", *EvasionAttack.attack_params]
    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(self, estimator: Any, settings: _spsa.SPSASettings, seed: int = 0) -> None:
        super().__init__(estimator=estimator)
        self.settings, self.seed = settings, seed

    def generate(self, x: Images, y: NDArray[Any] | None = None, **_kwargs: object) -> Images:
        """Adversarial images (N, C, H, W); without ``y`` the labels are the predictions."""
        labels = (
            self.estimator.predict(x)
            if y is None
            else check_and_transform_label_format(y, self.estimator.nb_classes)
        )
        adv = _spsa.attack(
            lambda x_NCHW: torch.from_numpy(self.estimator.predict(x_NCHW.numpy())),
            torch.from_numpy(np.asarray(x, dtype=np.float32)),
            torch.from_numpy(np.asarray(labels).argmax(1)),
            self.settings,
            seed=self.seed,
        )
        result: Images = adv.numpy()
        return result


def test_the_attack_is_the_same_through_the_interface_of_art() -> None:
    model, x = curved(), images(3)
    y = model(x).argmax(1)
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=SHAPE,
        nb_classes=3,
        clip_values=(0, 1),
        device_type="cpu",
    )
    own = attacks.family("spsa").search(
        model,
        x,
        y,
        parse_threat("Linf", "0.03"),
        attacks.parse("spsa", {"iterations": 5, "samples": 32}),
        classes=3,
        seed=9,
    )
    settings = _spsa.SPSASettings(
        norm="Linf", radius=0.03, iterations=5, samples=32, delta=0.001, learning_rate=0.01
    )
    attack = SPSAForART(classifier, settings, seed=9)
    assert np.allclose(attack.generate(x.numpy(), y.numpy()), own.numpy(), atol=1e-6)
    onehot = np.eye(3, dtype=np.float32)[y.numpy()]
    assert np.array_equal(attack.generate(x.numpy(), onehot), attack.generate(x.numpy()))
