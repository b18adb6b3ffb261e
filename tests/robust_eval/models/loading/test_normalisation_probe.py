"""Determination of the input normalisation from images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.loading import checkpoint
from robust_eval.models.loading.normalisation_probe import candidate_normalisations, near_chance, probe
from robust_eval.models.normalisation import (
    NONE,
    NORMALISATIONS,
    PER_IMAGE,
    Normalised,
    equivalent,
    parse_normalisation,
)

Trained = Callable[[str], nn.Module]


def load(state: Any, path: Path, images: ImageSet | None, **options: Any) -> checkpoint.LoadedModel:
    torch.save(state, path)
    return checkpoint.load(str(path), images=images, **options)


class Brightness(nn.Module):
    """Classifies mean brightness into ten classes, correctly for one normalisation only; no BatchNorm."""

    def __init__(self, normalisation: Normalisation, sharpness: float = 1.0) -> None:
        super().__init__()
        centres = (torch.arange(10.0) + 0.5) / 10
        mean = torch.tensor(normalisation.mean).mean()
        std = torch.tensor(normalisation.std).mean()
        self.centres = nn.Parameter((centres - mean) / std * sharpness)

    def forward(self, x: Tensor) -> Tensor:
        return -((x.mean((1, 2, 3))[:, None] - self.centres) ** 2)


def levels(n: int = 200) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 10
    return (((y + 0.5) / 10)[:, None, None, None]).expand(n, 3, 4, 4).contiguous(), y


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "cifar10-kuangliu",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("2x-1", "cifar10")),
    ],
)
def test_the_normalisation_of_training_is_found(
    name: str, trained: Trained, images: ImageSet, tmp_path: Path
) -> None:
    """All normalisations give a high accuracy here; only the statistics of BatchNorm distinguish them."""
    loaded = load(trained(name).state_dict(), tmp_path / "c.pt", images)
    assert loaded.ref.normalisation == NORMALISATIONS[name]
    assert f"input normalisation '{name}' by the first BatchNorm layer" in loaded.ref.notes[0]
    assert re.search(rf"clean accuracy: {name} 1?\d\d", loaded.ref.notes[0])


@pytest.mark.parametrize("name", ["none", "2x-1", "cifar10", "imagenet"])
def test_clearly_different_accuracies_decide(name: str) -> None:
    x, y = levels()
    chosen, rivals, note = probe(
        Brightness(NORMALISATIONS[name]), candidate_normalisations(3), x, y, 10, "c.pt"
    )
    assert name in (chosen.name, *(rival.normalisation.name for rival in rivals))
    if name in ("none", "2x-1"):
        assert not rivals
        assert note.startswith(
            f"input normalisation '{name}' by clean accuracy; clean accuracy: {name} 100.0% of 200"
        )
        others = [entry.name for entry in candidate_normalisations(3) if entry.name != name]
        assert all(f"{other} " in note for other in others), "accuracies of the alternatives"


class Indifferent(nn.Module):
    """Predicts the labels of :func:`levels`, whatever the input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(levels(len(x))[1], 10).float()


def test_what_accuracy_does_not_rule_out_is_plausible_and_none_is_chosen() -> None:
    x, y = levels(32)
    chosen, rivals, note = probe(Indifferent(), [NORMALISATIONS["2x-1"], NONE], x, y, 10, "c.pt")
    assert chosen == NONE
    assert [rival.normalisation.name for rival in rivals] == ["none", "2x-1"]
    assert "as one of several that accuracy does not rule out" in note


def test_a_recorded_normalisation_is_kept_unless_near_chance() -> None:
    x, y = levels()
    recorded = Normalisation("recorded", (0.01,), (1.0,))
    tried = [recorded, *candidate_normalisations(3)]
    chosen, rivals, note = probe(Brightness(NONE), tried, x, y, 10, "c.pt", recorded=recorded)
    assert chosen is recorded
    assert not rivals, "a recorded normalisation is not in doubt"
    assert "as recorded" in note
    wrong = Normalisation("recorded", (1.5,), (0.01,))
    tried = [wrong, *candidate_normalisations(3)]
    with pytest.raises(
        UserError, match=r"records an input normalisation under which it is near chance \(recorded 10"
    ):
        probe(Brightness(NONE), tried, x, y, 10, "c.pt", recorded=wrong)


def test_near_chance_is_an_error_with_all_accuracies() -> None:
    x, y = levels()
    with pytest.raises(UserError) as caught:
        probe(Brightness(NONE), candidate_normalisations(3), x, (y + 5) % 10, 10, "c.pt")
    text = str(caught.value)
    assert text.startswith("c.pt is near chance on these images (")
    assert "none 0.0% of 200" in text
    assert "chance is 10%" in text
    assert "choose a normalisation with --normalisation" in text


def test_few_images_have_a_lower_floor() -> None:
    x, y = levels(8)
    labels = torch.where(torch.arange(8) == 0, y, 9)
    assert probe(Brightness(NONE), [NONE], x, labels, 10, "c.pt")[0] == NONE
    with pytest.raises(UserError, match="near chance"):
        probe(Brightness(NONE), [NONE], x, (y + 5) % 10, 10, "c.pt")


def test_non_finite_logits_count_as_wrong() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), float("nan"))

    x, _ = levels()
    with pytest.raises(UserError, match="near chance"):
        probe(Broken(), [NONE], x, torch.zeros(len(x), dtype=torch.int64), 10, "c.pt")


def test_the_variant_that_batchnorm_remembers_is_recorded(
    make: Callable[..., nn.Module], quadrants: Callable[..., ImageSet], tmp_path: Path
) -> None:
    """The PreAct ResNet of Wong et al. has the tensors of that of Rice et al., but other shortcuts."""
    network = make("preact-resnet-18", width=4, shortcut="input")
    images = quadrants(100, side=32)
    x, _ = images.tensors()
    with torch.no_grad():
        # Labels are the predictions of the network, after subtracting its mean logits.
        network.get_parameter("linear.bias").sub_(network(x).mean(0))
        labels = network(x).argmax(1)
    images = ImageSet("own", "test", images.x_NHWC, labels.numpy(), images.class_names)
    assert np.bincount(labels).max() < 75
    ref = load(network.state_dict(), tmp_path / "c.pt", images).ref
    assert ref.architecture == Architecture("preact-resnet-18", {"width": 4, "shortcut": "input"})


def test_without_images_a_normalisation_must_be_known(trained: Trained, tmp_path: Path) -> None:
    state = trained("none").state_dict()
    with pytest.raises(UserError, match=r"c\.pt does not record its input normalisation\. Add --data, so"):
        load(state, tmp_path / "c.pt", None)
    ref = load(state, tmp_path / "c.pt", None, normalisation="2x-1").ref
    assert (ref.normalisation.name, ref.notes) == ("2x-1", ("input normalisation '2x-1' as requested",))


def test_a_requested_normalisation_is_not_probed(trained: Trained, images: ImageSet, tmp_path: Path) -> None:
    loaded = load(trained("none").state_dict(), tmp_path / "c.pt", images, normalisation=".1,.2,.3/.4,.5,.6")
    assert loaded.ref.normalisation.mean == (0.1, 0.2, 0.3)
    assert loaded.ref.normalisation.std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("text", "channels", "message"),
    [
        ("cifar", 3, "Unknown normalisation 'cifar'. Did you mean cifar10?"),
        ("cifar10", 1, "Normalisation cifar10 is for 3 channels, but the images have 1."),
        ("0.5/0", 3, "Normalisation 0.5/0 divides by 0."),
        ("nan/1", 3, "Normalisation nan/1 has values that are not finite."),
        ("0.5/inf", 3, "Normalisation 0.5/inf has values that are not finite."),
        ("half/0.5", 3, "Normalisation 'half/0.5' is not MEAN/STD with numbers, such as 0.49,0.48,0.45/"),
    ],
)
def test_an_invalid_normalisation_is_refused(text: str, channels: int, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_normalisation(text, channels)


def test_the_floor_is_below_one_for_few_classes() -> None:
    assert near_chance(10) == pytest.approx(0.2)
    assert near_chance(100) == pytest.approx(0.02)
    assert near_chance(2) == pytest.approx(0.65)


def test_known_datasets_are_not_tried_with_statistics_of_others() -> None:
    names = [entry.name for entry in candidate_normalisations(1, "mnist")]
    assert names == ["none", "2x-1", "0-255", "per-image", "mnist"]
    assert "cifar100" not in [entry.name for entry in candidate_normalisations(3, "npz:x.npz", classes=10)]
    assert "svhn" not in [entry.name for entry in candidate_normalisations(3, "cifar10")]
    recorded = Normalisation("recorded", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert [entry.name for entry in candidate_normalisations(3, "svhn", recorded)][:2] == ["recorded", "none"]
    assert "2x-1" not in [entry.name for entry in candidate_normalisations(3, "svhn", recorded)], (
        "it is the recorded one"
    )


def test_the_input_is_unchanged_without_normalisation() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(Normalised(nn.Identity(), NONE)(x), x)
    wrapped = Normalised(nn.Identity(), NORMALISATIONS["2x-1"])
    torch.testing.assert_close(wrapped(x), 2 * x - 1)
    assert not wrapped.state_dict()


def test_per_image_standardisation_is_that_of_robustbench() -> None:
    x = torch.rand(3, 3, 4, 4)
    x[2] = 0.5
    expected = torch.stack([(image - image.mean()) / image.std().clamp_min(48**-0.5) for image in x])
    torch.testing.assert_close(Normalised(nn.Identity(), PER_IMAGE)(x), expected)


def test_equivalent_normalisations() -> None:
    assert equivalent(NORMALISATIONS["2x-1"], Normalisation("x", (0.5,) * 3, (0.5,) * 3))
    assert not equivalent(NONE, PER_IMAGE), "their mean and std are equal, but unused per image"
    assert not equivalent(NONE, NORMALISATIONS["0-255"])


def test_images_that_do_not_fit_are_refused(
    trained: Trained, quadrants: Callable[..., ImageSet], tmp_path: Path
) -> None:
    state, images = trained("none").state_dict(), quadrants(8)
    five = ImageSet("five", "test", images.x_NHWC, images.y_N, ("a", "b", "c", "d", "e"))
    with pytest.raises(UserError, match=r"c\.pt has 4 classes, but five has 5\. Choose the data"):
        load(state, tmp_path / "c.pt", five)
    with pytest.raises(
        UserError, match=r"c\.pt takes images with 3 channels, but those of quadrants have 1\."
    ):
        load(state, tmp_path / "c.pt", quadrants(8, channels=1))
