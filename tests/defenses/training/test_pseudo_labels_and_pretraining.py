"""Pseudo-labels (RST), fine-tuning from a checkpoint, extra data, and checks of the options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.small_jobs import make_job, run, weights

import robust_eval.evaluation.prepare
from defenses.recipes.choices import Choices
from defenses.training import initial_weights
from defenses.training.context import begin
from defenses.training.job import prepare
from defenses.training.options import TrainOptions
from defenses.training.pseudo_labels import unlabelled_images, write_pseudo_labels
from defenses.training.runtime import start_runtime
from robust_eval.core import image_sketch
from robust_eval.core.errors import UserError
from robust_eval.data import load
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.models.loading import checkpoint
from robust_eval.results import flags

DIGITS = load("digits", split="train")


def archive(path: Path, images: NDArray[Any] = DIGITS.x_NHWC[:60], labels: NDArray[Any] | None = None) -> str:
    arrays = {"x": images} if labels is None else {"x": images, "y": labels}
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def natural(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A naturally trained network good enough to label digits."""
    folder = tmp_path_factory.mktemp("natural")
    sets = ("architecture_arguments.width=8", "architecture_arguments.hidden=32")
    run(make_job(folder, "natural", *sets, n=1000, epochs=8))
    return folder / "best.pt"


def test_self_training_from_natural_to_rst_awp(natural: Path, tmp_path: Path) -> None:
    done = write_pseudo_labels(str(natural), archive(tmp_path / "more.npz"), tmp_path / "labelled.npz")
    assert (done.kept, done.seen, sum(done.classes)) == (60, 60, 60)
    labelled = load(f"npz:{tmp_path / 'labelled.npz'}")
    assert np.array_equal(labelled.x_NHWC, DIGITS.x_NHWC[:60])
    assert labelled.classes == 10
    assert (labelled.y_N == DIGITS.y_N[:60]).mean() > 0.8
    job = make_job(
        tmp_path / "run", "rst-awp", "perturbation.warmup=0", unlabelled=f"npz:{tmp_path / 'labelled.npz'}"
    )
    sampler = begin(job, start_runtime("cpu", "32", 1))[0].sampler
    assert sampler.pseudo is not None
    assert (sampler.unlabelled, sampler.pseudo.n + job.left_out) == (16, 60)
    assert run(job).last["perturbed"] == 1.0


def test_images_below_the_minimum_confidence_are_left_out(natural: Path, tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (60, 8, 8, 1)).astype(np.uint8)
    source = archive(tmp_path / "more.npz", np.concatenate([DIGITS.x_NHWC[:60], noise]))
    done = write_pseudo_labels(str(natural), source, tmp_path / "out.npz", min_confidence=0.9)
    assert 20 < done.kept < done.seen == 120


def test_labels_in_the_unlabelled_set_are_ignored(natural: Path, tmp_path: Path) -> None:
    wrong = archive(tmp_path / "wrong.npz", labels=np.zeros(60, np.int64))
    done = write_pseudo_labels(str(natural), wrong, tmp_path / "out.npz")
    assert max(done.classes) < 20


def test_a_folder_of_images_without_classes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.fromarray(DIGITS.x_NHWC[number, :, :, 0]).save(tmp_path / "images" / f"{number}.png")
    found = unlabelled_images(f"folder:{tmp_path / 'images'}", None)
    assert np.array_equal(found.x_NHWC, DIGITS.x_NHWC[:3])


def test_invalid_pseudo_labelling(natural: Path, tmp_path: Path) -> None:
    source = archive(tmp_path / "more.npz")
    big = archive(tmp_path / "big.npz", np.zeros((4, 28, 28, 1), np.uint8))
    cases: list[tuple[str, Path, dict[str, float], str]] = [
        (source, tmp_path / "out.pt", {}, r"must end in \.npz"),
        (source, tmp_path / "out.npz", {"min_confidence": 1.5}, "must be at least 0 and below 1"),
        (source, tmp_path / "out.npz", {"min_confidence": 0.9999999}, "No image of .* reaches"),
        (big, tmp_path / "out.npz", {}, r"does not take the images of .* \(28x28, 1 channels\)"),
        ("npz:missing.npz", tmp_path / "out.npz", {}, "does not exist"),
        (source, tmp_path / "more.npz", {}, r"more.npz exists: choose another name, or remove it first"),
    ]
    for spec, out, options, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            write_pseudo_labels(str(natural), spec, out, **options)


def test_fine_tuning_keeps_the_features_and_starts_a_new_last_layer(tmp_path: Path) -> None:
    """From a dataset with other classes: only the last layer is new."""
    five = archive(tmp_path / "five.npz", DIGITS.x_NHWC[:200], DIGITS.y_N[:200] % 5)
    first = make_job(tmp_path / "first", "at", "normalisation=2x-1", arch="digits-cnn", data=five, epochs=1)
    run(first)
    source = tmp_path / "first" / "last.pt"
    job = make_job(tmp_path / "second", "pretraining-awp", epochs=1, init=str(source))
    fresh = begin(job, start_runtime("cpu", "32", 1))[1].network.state_dict()
    old = weights(source)
    assert fresh["fc2.weight"].shape[0] == 10
    assert all(torch.equal(fresh[name], old[name]) for name in old if not name.startswith("fc2."))
    run(job)
    ref = checkpoint.load(str(tmp_path / "second" / "last.pt"), images=job.train).ref
    assert ref.normalisation.name == "2x-1"


def test_initial_weights_that_do_not_fit(tmp_path: Path) -> None:
    five = archive(tmp_path / "five.npz", DIGITS.x_NHWC[:200], DIGITS.y_N[:200] % 5)
    run(make_job(tmp_path / "first", "at", arch="digits-cnn", data=five, epochs=1))
    source = str(tmp_path / "first" / "last.pt")
    sentences = {
        (): r"has 5 classes, the data 10: add --set training\.fresh_head=true",
        ("normalisation=2x-1",): r"normalised by none, this run by 2x-1: add --set normalisation=none",
        ("architecture=lenet",): r"is digits-cnn, this run trains lenet .* choose --arch digits-cnn",
        (
            "architecture_arguments.width=8",
            "training.fresh_head=true",
        ): r"does not fit: convolutions\.0\.bias has .*of the checkpoint: {'width': 4",
    }
    for sets, sentence in sentences.items():
        job = make_job(tmp_path / "second", "at", *sets, init=source)
        with pytest.raises(UserError, match=sentence):
            begin(job, start_runtime("cpu", "32", 1))
    with pytest.raises(UserError, match="nowhere.pt does not exist"):
        initial_weights.fingerprint("nowhere.pt")


def test_weights_without_a_normalisation_are_assumed_to_use_that_of_the_run(tmp_path: Path) -> None:
    run(make_job(tmp_path / "first", "at", epochs=1))
    old = weights(tmp_path / "first" / "last.pt")
    torch.save(old, tmp_path / "bare.pt")
    job = make_job(tmp_path / "second", "at", epochs=1, init=str(tmp_path / "bare.pt"))
    new = begin(job, start_runtime("cpu", "32", 1))[1].network.state_dict()
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_initial_weights_from_an_ensemble_are_refused(tmp_path: Path) -> None:
    run(make_job(tmp_path / "first", "at-pas", epochs=4))
    job = make_job(tmp_path / "second", "at", epochs=1, init=str(tmp_path / "first" / "ensemble.pt"))
    with pytest.raises(
        UserError, match="is an ensemble: start from one of its networks, such as snapshot-1.pt"
    ):
        begin(job, start_runtime("cpu", "32", 1))


def test_extra_data_is_used_for_training_but_not_for_validation(tmp_path: Path) -> None:
    extra = archive(tmp_path / "extra.npz", labels=DIGITS.y_N[:60])
    job = make_job(tmp_path / "run", "at", extra_data=extra)
    context, _ = begin(job, start_runtime("cpu", "32", 1))
    sizes = (context.sampler.labelled.n + job.left_out, job.train.n, context.pools["val"].n)
    assert sizes == (124, 64, 32)


def test_validation_and_test_images_are_never_trained_on(tmp_path: Path) -> None:
    """Extra and unlabelled images that are validation or test images are left out."""
    test = load("digits", split="test")
    images = np.concatenate([test.x_NHWC[:20], DIGITS.x_NHWC[:60]])
    extra = archive(tmp_path / "extra.npz", images, np.concatenate([test.y_N[:20], DIGITS.y_N[:60]]))
    job = prepare(TrainOptions(recipe="at", choices=Choices(data="digits"), extra_data=extra))
    assert job.extra is not None
    trained_on = image_sketch.hashes(np.concatenate([job.train.x_NHWC, job.extra.x_NHWC]))
    measured_on = image_sketch.hashes(np.concatenate([job.validation.x_NHWC, test.x_NHWC]))
    assert not np.isin(measured_on, trained_on).any()
    assert job.extra.n + job.left_out == 80
    assert job.left_out >= 20
    test_only = archive(tmp_path / "test.npz", test.x_NHWC[:5], test.y_N[:5])
    with pytest.raises(UserError, match="--extra-data contains only validation and test images of the data"):
        prepare(TrainOptions(recipe="at", choices=Choices(data="digits"), extra_data=test_only))


def test_the_complete_test_set_is_left_out_even_if_only_a_part_is_measured(tmp_path: Path) -> None:
    test = load("digits", split="test")
    beyond = archive(tmp_path / "extra.npz", test.x_NHWC[-30:], test.y_N[-30:])
    choices = Choices(data="digits", sets=("selection.test_images=10",))
    with pytest.raises(UserError, match="--extra-data contains only validation and test images of the data"):
        prepare(TrainOptions(recipe="at", choices=choices, extra_data=beyond))


def test_a_model_evaluated_on_its_training_images_is_flagged(natural: Path) -> None:
    for split, expected in (("train", True), ("test", False)):
        job = robust_eval.evaluation.prepare.prepare(
            EvaluationOptions(
                checkpoint=str(natural), data="digits", split=split, suite="clean", examples=200
            )
        )
        found = {flag.id for flag in flags.from_overlap(job.overlap)}
        assert ("judged-on-training-images" in found) == expected


REFUSED = [
    ("rst", {}, "Recipe rst needs pseudo-labelled images: make them with defenses pseudo-label"),
    ("at", {"unlabelled": "npz:x.npz"}, "Recipe at uses no pseudo-labelled images: choose rst or rst-awp"),
    ("pretraining", {}, "Recipe pretraining starts from a pre-trained network: give it with --init"),
    ("at", {"precision": "fp16"}, "Unknown precision 'fp16'"),
    ("at", {"seed": -1}, "--seed must be 0 or more, got -1"),
]


@pytest.mark.parametrize(("recipe", "options", "sentence"), REFUSED)
def test_contradicting_options(recipe: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(TrainOptions(recipe=recipe, choices=Choices(data="digits"), **options))  # type: ignore[arg-type]


def test_extra_images_of_another_size_or_label_are_refused(tmp_path: Path) -> None:
    big = archive(tmp_path / "big.npz", np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int64))
    many = archive(tmp_path / "many.npz", labels=np.full(60, 11))
    for spec, sentence in ((big, "holds images of 28x28x1, but digits has 8x8x1"), (many, "has a label 11")):
        with pytest.raises(UserError, match=f"--extra-data {sentence}"):
            make_job(tmp_path / "run", "at", extra_data=spec)


def test_images_that_cannot_be_trained_on(tmp_path: Path) -> None:
    one = archive(tmp_path / "one.npz", labels=np.zeros(60, np.int64))
    with pytest.raises(UserError, match="has one class: training needs at least two"):
        make_job(tmp_path / "run", "at", data=one)
    with pytest.raises(UserError, match=r"augment.cutout = 8 can hide a whole image of digits \(8 pixels\)"):
        make_job(tmp_path / "run", "at", "augment.cutout=8")
    ten = archive(tmp_path / "ten.npz", DIGITS.x_NHWC[:200], DIGITS.y_N[:200])
    with pytest.raises(UserError, match="has no test images of its own, and selection.test_images would"):
        make_job(tmp_path / "run", "at", "selection.test_images=10", data=ten)


def test_a_batch_larger_than_the_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.batch_size is 5000, but 1237 training images are left"):
        make_job(tmp_path / "run", "at", "training.batch_size=5000")


def test_normalisation_follows_the_data_set(tmp_path: Path) -> None:
    assert make_job(tmp_path, "at").normalisation.name == "none"
    with pytest.raises(UserError, match="is for 3 channels, but the images have 1"):
        make_job(tmp_path, "at", "normalisation=cifar10")
