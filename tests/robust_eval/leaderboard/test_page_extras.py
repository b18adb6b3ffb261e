"""Learning curves and images of a row: written, read back, and refused if invalid."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save
from support import board_rows
from support.known_models import Linear
from support.synthetic_results import full
from typer.testing import CliRunner

from robust_eval import data, evaluate
from robust_eval.cli.leaderboard import leaderboard_app
from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.leaderboard import submission, thumbnails
from robust_eval.leaderboard.page_extras import read_curve, read_extras, read_pictures
from robust_eval.leaderboard.row import Row, read_rows
from robust_eval.results import EvalResult, EvidenceRecord, read_result


@pytest.fixture(scope="module")
def base() -> EvalResult:
    return board_rows.result(board_rows.template(), "at", n=12)


def images(size: int = 8, channels: int = 1, n: int = 12) -> ImageSet:
    pixels = np.random.default_rng(0).integers(30, 220, (n, size, size, channels), dtype=np.uint8)
    return ImageSet("noise", "test", pixels, np.arange(n) % 4, ("a", "b", "c", "d"))


def evidence(
    folder: Path, result: EvalResult, slice_: ImageSet, broken: dict[str, list[int]]
) -> tuple[EvalResult, Path]:
    """A result and its evidence: every broken image is changed by +-10/255, except for its first pixel."""
    tensors: dict[str, np.ndarray] = {"labels": slice_.y_N}
    for name, indices in broken.items():
        change = np.random.default_rng(1).choice([-10, 10], (len(indices), *slice_.x_NHWC.shape[1:]))
        change[:, 0, 0] = 0
        adversarial = (slice_.x_NHWC[np.array(indices, int) % slice_.n] + change).transpose(0, 3, 1, 2) / 255
        tensors |= {
            f"{name}.indices": np.array(indices, int),
            f"{name}.images": adversarial.astype(np.float32),
        }
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    payload = save(contiguous, {"robust_eval": "{}"})
    path = folder / "evidence.safetensors"
    path.write_bytes(payload)
    record = EvidenceRecord(file=path.name, sha256=hashlib.sha256(payload).hexdigest(), images=1)
    data = result.data.model_copy(update={"fingerprint": slice_.slice().fingerprint})
    return result.model_copy(update={"evidence": record, "data": data}), path


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png.partition(",")[2]))))


def test_pictures_show_the_evaluated_images(base: EvalResult, tmp_path: Path) -> None:
    slice_ = images()
    result, path = evidence(tmp_path, base, slice_, {"fgsm": [1], "aa": [0, 1, 4, 5, 6]})
    found = thumbnails.make_thumbnails(result, path, slice_, k=3)
    assert found is not None
    assert found.size == (8, 8)
    # The first example of each class, from the column with the most broken examples.
    assert [(p.index, p.label, p.column) for p in found.examples] == [
        (0, "a", "AutoAttack"),
        (1, "b", "AutoAttack"),
        (6, "c", "AutoAttack"),
    ]
    first = found.examples[0]
    assert np.array_equal(pixels(first.clean), slice_.x_NHWC[0, :, :, 0])
    change = pixels(first.adversarial).astype(int) - pixels(first.clean)
    assert set(np.unique(change)) == {-10, 0, 10}
    shown = pixels(first.difference)
    assert shown[0, 0] == 128
    assert set(np.unique(shown)) == {0, 128, 255}
    assert first.amplified == pytest.approx(12.75)


def test_colour_pictures_stay_within_40_kb(base: EvalResult, tmp_path: Path) -> None:
    for size, shown in ((32, 32), (224, 44)):
        slice_ = images(size, 3)
        result, path = evidence(tmp_path, base, slice_, {"aa": [0, 1, 2, 3]})
        found = thumbnails.make_thumbnails(result, path, slice_)
        assert found is not None
        assert found.size == (shown, shown)
        assert 1 <= len(found.examples) <= 4
        assert len(found.model_dump_json()) < 42_000


def run_on_digits(folder: Path) -> Path:
    """Result file of a short run of a linear classifier, with its own predictions as labels."""
    network = Linear(classes=10, shape=(1, 8, 8)).eval()
    slice_ = data.load("digits").take(20)
    x, _ = slice_.tensors()
    with torch.no_grad():
        y = network(x).argmax(1)
    evaluate(network, x, y, "Linf 0.3", suite="fgsm", out=folder)
    result = read_result(folder / "result.json")
    record = result.data.model_copy(update={"name": "digits", "split": "test"})
    record = record.model_copy(update={"fingerprint": slice_.slice().fingerprint})
    (folder / "result.json").write_text(result.model_copy(update={"data": record}).to_json())
    return folder / "result.json"


def trained(result: EvalResult, folder: Path, curve: str, **claims: object) -> EvalResult:
    """The result with a checkpoint, written to ``folder`` with the learning curve of its training."""
    folder.mkdir(exist_ok=True)
    (folder / "curve.csv").write_text(curve)
    (folder / "last.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    changed = {"sha256": digest, "trained_with": claims or None}
    return result.model_copy(update={"checkpoint": result.checkpoint.model_copy(update=changed)})


def test_page_extras_are_written_and_read_back(tmp_path: Path) -> None:
    run = run_on_digits(tmp_path / "run")
    result = trained(read_result(run), tmp_path / "training", "epoch,val_pgd\n1,\n2,0.5\n")
    run.write_text(result.to_json())
    curve_file = tmp_path / "training" / "curve.csv"
    words = ["add", str(run), str(tmp_path / "board"), "--images", "--curve", str(curve_file)]
    done = CliRunner().invoke(leaderboard_app, words)
    assert done.exit_code == 0, done.output
    (row,) = read_rows(tmp_path / "board")
    extras = read_extras(tmp_path / "board", [row, Row("results/without-extras.json", result)])
    found = extras[row.file].pictures
    assert found is not None
    assert len(found.examples) == 4
    # The predicted classes come from the run's unit files.
    assert all(example.seen_as in result.data.class_names for example in found.examples)
    curve = extras[row.file].curve
    assert curve is not None
    assert math.isnan(curve["val_pgd"][0])
    assert (curve["epoch"], curve["val_pgd"][1]) == ([1, 2], 0.5)
    assert extras["results/without-extras.json"].pictures is None
    assert list(submission.unexpected_files(tmp_path / "board")) == []


METRICS = {"epoch": 2, "val_clean": 0.9, "val_pgd": 0.5, "loss": 1.2345678}
CURVE = "epoch,loss,val_clean,val_pgd\n1,1.5,0.7,0.4\n2,1.23457,0.9,0.5\n3,1.1,0.8,0.45\n"


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (CURVE, True),
        (CURVE.replace("loss", "lr"), True),
        (CURVE.replace("1.23457", "1.2346"), False),
        (CURVE.replace("0.9,0.5", "0.9,0.49"), False),
        (CURVE.replace("0.9,0.5", "0.9,"), False),
        (CURVE.replace("\n2,", "\n4,"), False),
        ("epoch,lr\n1,0.1\n2,0.1\n", False),
    ],
)
def test_the_curve_of_another_checkpoint_is_refused(tmp_path: Path, text: str, own: bool) -> None:
    """A curve must contain what the checkpoint claims about its epoch."""
    result = trained(full(200), tmp_path, text, metrics=METRICS, recipe={"name": "at"})
    (tmp_path / "result.json").write_text(result.to_json())
    board = tmp_path / "board"
    if own:
        path = submission.add_row(tmp_path / "result.json", board, curve=tmp_path / "curve.csv")
        assert path.with_name(f"{path.stem}.curve.csv").read_text() == text
    else:
        with pytest.raises(UserError, match="is the learning curve of another checkpoint.*or omit --curve"):
            submission.add_row(tmp_path / "result.json", board, curve=tmp_path / "curve.csv")
        assert not board.exists()


@pytest.mark.parametrize("beside", [None, b"other weights"])
@pytest.mark.parametrize("claims", [{}, {"metrics": METRICS}])
def test_a_curve_without_the_checkpoint_beside_it_is_refused(
    beside: bytes | None, claims: dict[str, object], tmp_path: Path
) -> None:
    """Also if it agrees with all that the checkpoint records: another run may have the same figures."""
    folder = tmp_path / "training"
    (tmp_path / "result.json").write_text(trained(full(200), folder, CURVE, **claims).to_json())
    (folder / "last.pt").unlink()
    if beside is not None:
        (folder / "last.pt").write_bytes(beside)
    with pytest.raises(UserError, match="no file beside it has the sha256 of .*, or omit --curve"):
        submission.add_row(tmp_path / "result.json", tmp_path / "board", curve=folder / "curve.csv")
    assert not (tmp_path / "board").exists()


def test_no_pictures_without_broken_examples(base: EvalResult, tmp_path: Path) -> None:
    result, path = evidence(tmp_path, base, images(), {"aa": []})
    assert thumbnails.make_thumbnails(result, path, images()) is None


def test_a_run_without_evidence_has_no_images(base: EvalResult, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(base.to_json())
    with pytest.raises(UserError, match="has no evidence, so there are no images to show"):
        thumbnails.thumbnails_of_run(tmp_path / "result.json")


def test_evidence_and_images_of_another_result_are_refused(base: EvalResult, tmp_path: Path) -> None:
    slice_ = images()
    result, path = evidence(tmp_path, base, slice_, {"aa": [2]})
    with pytest.raises(UserError, match="These are not the images that .* belongs to"):
        thumbnails.make_thumbnails(result, path, images(n=13))
    with pytest.raises(UserError, match="is not the evidence of this result"):
        thumbnails.make_thumbnails(base, path, slice_)
    with pytest.raises(UserError, match="none does not exist"):
        thumbnails.make_thumbnails(result, tmp_path / "none", slice_)
    result, path = evidence(tmp_path, base, slice_, {"aa": [99]})
    with pytest.raises(UserError, match="holds images of no example. Evaluate again."):
        thumbnails.make_thumbnails(result, path, slice_)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has a line without an epoch"),
        ("lr\n0.1\n", "has a line without an epoch"),
        ("epoch\n1\n\n2,3\n", "is not a table of numbers"),
        ("epoch,lr\n1,high\n", "is not a table of numbers"),
        ("epoch,lr\n1,inf\n", "contains infinity"),
        ("epoch,lr\n,1\n", "has a line without an epoch"),
        ("epoch,lr\n1\n", "too few cells"),
        ("epoch\n" + "1\n" * 2001, "more than 2000 lines"),
    ],
)
def test_invalid_curves_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.curve.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_curve(path)


def test_invalid_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.images.json"
    example = {"index": 0, "label": "a", "column": "AA", "amplified": 2.0}
    good = dict.fromkeys(("clean", "adversarial", "difference"), "data:image/png;base64,iVBORw0KGgo=")

    def refused(message: str, **changes: object) -> None:
        path.write_text(json.dumps({"size": [8, 8], "examples": [{**example, **good, **changes}]}))
        with pytest.raises(UserError, match=message):
            read_pictures(path)

    refused("clean", clean="https://example.org/track.png")
    refused("clean", clean="data:image/svg+xml;base64,AAAA")
    refused("clean", clean='data:image/png;base64,AAAA" onerror="x')
    refused("extra", extra="Extra inputs")
    refused("larger than 64 KiB", clean="data:image/png;base64," + "A" * 70_000)
    path.write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_pictures(path)
