"""Each test manipulates one part of a published result; verification must report it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from support.forgeries import (
    Tensors,
    edit,
    flipped,
    forge_request,
    recount,
    remove_column,
    reset_column,
    rewrite_evidence,
)
from support.published_runs import EPS, N, failed, make_checkpoint, run, verified

from robust_eval.core.errors import UserError
from robust_eval.results import read_result, verification_record
from robust_eval.results.request_records import request_of
from robust_eval.verification import verify
from robust_eval.verification.options import VerifyOptions


def test_an_unmodified_result_is_verified(original: Path) -> None:
    found = verified(original)
    assert found.passed, found.checks
    assert len(found.checks) == 15
    assert found.not_reached == ()
    assert "recorded as robust and were not attacked again" in found.trusted[0]
    result = read_result(original / "result.json")
    evidence = result.evidence
    assert evidence is not None
    assert 2 * (N + evidence.images) <= found.forwards <= 2 * (N + evidence.images) + 32 * 50


@pytest.mark.parametrize("own_code", [False, True])
def test_foreign_checkpoints_are_built_as_in_the_run(original: Path, tmp_path: Path, own_code: bool) -> None:
    """A bare state dict: its architecture is inferred or given as code, its normalisation detected."""
    shutil.copy(original / "images.npz", tmp_path)
    torch.save(make_checkpoint(tmp_path / "own.pt").state_dict(), tmp_path / "net.pt")
    given = {}
    if own_code:
        code = "from robust_eval.models.architectures import build\n\n\n"
        code += "def make(classes, channels, image_size):\n"
        code += "    sizes = {'classes': classes, 'channels': channels, 'image_size': image_size}\n"
        code += "    return build('digits-cnn', width=4, hidden=16, **sizes)\n"
        (tmp_path / "mine.py").write_text(code)
        given = {"arch": f"{tmp_path / 'mine.py'}:make"}
    result = run(tmp_path, suite="fgsm", **given)
    assert result.checkpoint.format == "foreign"
    found = verified(tmp_path, **given)
    assert found.passed, found.checks
    if own_code:
        with pytest.raises(UserError, match=r"was built by mine\.py:make: give that code with --arch"):
            verified(tmp_path)
        (tmp_path / "mine.py").write_text(code + "# Another version.\n")
        other = next(check for check in verified(tmp_path, **given).checks if check.name == "checkpoint")
        assert not other.passed
        assert re.fullmatch("the network's code has sha256 .{12}, the record .{12}: other code", other.detail)


def test_the_request_can_be_recovered_from_the_record(original: Path) -> None:
    result = read_result(original / "result.json")
    assert request_of(result).key == result.request


def test_rounding_on_another_device_does_not_fail_a_check(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts of images on the decision boundary may differ between devices; they are counted separately."""
    from robust_eval.evaluation import judge
    from robust_eval.verification import rejudge

    model, x, y, stored = _load(original)
    result = read_result(original / "result.json")
    monkeypatch.setattr(judge, "ROUNDING", 1e9)
    wrong = {c.name: c for c in rejudge.rejudge(result, stored, _RolledLogits(model), x, y)}
    assert wrong["clean predictions"].passed
    assert "decided by rounding alone" in wrong["clean predictions"].detail
    monkeypatch.setattr(judge, "ROUNDING", 1e-4)
    assert not {c.name: c for c in rejudge.rejudge(result, stored, _RolledLogits(model), x, y)}[
        "clean predictions"
    ].passed


def test_judged_without_tf32(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 would change margins by more than the tolerance for rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert verified(original).passed
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


class _RolledLogits(torch.nn.Module):
    """A network whose logits are shifted by one class."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x)
        return logits.roll(1, dims=1)


def _load(folder: Path) -> tuple[Any, Any, Any, Any]:
    from robust_eval.results import evidence

    options = VerifyOptions(
        checkpoint=str(folder / "net.pt"), data=f"npz:{folder / 'images.npz'}", device="cpu"
    )
    loaded = verify.load_inputs(read_result(folder / "result.json"), options)
    stored = evidence.read_evidence(folder / "evidence.safetensors")
    return loaded.model, loaded.x_NCHW, loaded.y_N, stored


def test_accuracy(folder: Path) -> None:
    edit(folder, lambda v: v["columns"]["pgd-10"].update(accuracy=0.9))
    assert "pgd-10: accuracy 0.9 is not" in failed(folder)["record"]
    assert "still wrong" in verified(folder).not_reached


def test_verdict_bit_raised_with_all_that_follows(folder: Path) -> None:
    result = read_result(folder / "result.json")
    bits, clean = result.columns["pgd-10"].robust_bits, result.columns["clean"].robust_bits
    at = next(i for i in range(N) if bits[i] == "0" and clean[i] == "1")
    edit(folder, lambda v: reset_column(v, "pgd-10", flipped(bits, at)))
    assert failed(folder)["evidence complete"] == "pgd-10 has 1 images of examples not recorded as broken"


def test_verdict_bit_lowered_with_all_that_follows(folder: Path) -> None:
    """A manipulation that makes the model look less robust."""
    bits = read_result(folder / "result.json").columns["pgd-10"].robust_bits
    edit(folder, lambda v: reset_column(v, "pgd-10", flipped(bits, bits.index("1"))))
    assert failed(folder)["evidence complete"] == "pgd-10 records 1 broken examples without an image"


def test_clean_verdicts(folder: Path) -> None:
    """A misclassified clean image recorded as correct, and as robust under every attack."""

    def change(value: dict[str, Any]) -> None:
        for count in (*value["columns"].values(), value["worst_case"]):
            recount(count, "1" + count["robust_bits"][1:])
        for name in ("fgsm", "pgd-10"):
            value["columns"][name]["attacks"][0]["n_attacked"] += 1

    edit(folder, change)
    assert failed(folder)["clean predictions"].startswith("1 of the clean verdicts")


def test_evidence_changed(folder: Path) -> None:
    path = folder / "evidence.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "the file has sha256" in failed(folder)["evidence"]


def test_evidence_images_swapped_with_a_new_digest(folder: Path) -> None:
    def change(tensors: Tensors, _: dict[str, str]) -> None:
        tensors["fgsm.images"][[0, 1]] = tensors["fgsm.images"][[1, 0]]

    rewrite_evidence(folder, change)
    assert failed(folder)["ball and box"] == f"2 adversarial images are outside Linf {EPS}"


def test_evidence_replaced_by_the_clean_image(folder: Path) -> None:
    def change(tensors: Tensors, _: dict[str, str]) -> None:
        with np.load(folder / "images.npz", allow_pickle=False) as arrays:
            x = arrays["x"].transpose(0, 3, 1, 2).astype(np.float32) / 255
        tensors["fgsm.images"][0] = x[tensors["fgsm.indices"][0]]

    rewrite_evidence(folder, change)
    assert failed(folder)["still wrong"] == "1 adversarial images are classified correctly"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"fgsm.indices": t["fgsm.indices"] + 1000}), "images of other examples"),
        (lambda t: t.update({"fgsm.images": t["fgsm.images"][:, :, :4]}), "or of another shape"),
        (
            lambda t: t.update({"fgsm.indices": t["fgsm.indices"][:1].repeat(len(t["fgsm.indices"]))}),
            "not recorded as broken",
        ),
        (lambda t: [t.pop("fgsm.indices"), t.pop("fgsm.images")], "broken examples without an image"),
    ],
)
def test_evidence_of_other_examples(folder: Path, change: Callable[[Tensors], object], message: str) -> None:
    rewrite_evidence(folder, lambda tensors, _: change(tensors))
    assert message in failed(folder)["evidence complete"]


def test_evidence_of_another_run(folder: Path, original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "other")
    run(tmp_path / "other", seed=1)
    found = failed(folder, evidence=tmp_path / "other" / "evidence.safetensors")
    assert found["evidence"].startswith("it belongs to another run: its request is")


def test_another_checkpoint(folder: Path) -> None:
    make_checkpoint(folder / "net.pt", seed=1)
    assert "another checkpoint" in failed(folder)["checkpoint"]


def test_another_checkpoint_with_every_digest_forged(folder: Path) -> None:
    make_checkpoint(folder / "net.pt", seed=1)
    sha256 = hashlib.sha256((folder / "net.pt").read_bytes()).hexdigest()
    edit(folder, lambda v: v["checkpoint"].update(sha256=sha256))
    rewrite_evidence(folder, lambda _, metadata: metadata.update(checkpoint=sha256))
    assert "settings" in failed(folder)
    forge_request(folder)
    assert "clean predictions" in failed(folder)


@pytest.mark.parametrize("what", ["recipe", "metrics"])
def test_the_claims_of_the_checkpoint(folder: Path, what: str) -> None:
    edit(folder, lambda v: v["checkpoint"]["trained_with"].update({what: {"selection": "validation"}}))
    assert "the file's trained_with differs from the record" in failed(folder)["checkpoint"]


def test_normalisation(folder: Path) -> None:
    changed = {"name": "2x-1", "mean": [0.5], "std": [0.5]}
    edit(folder, lambda v: v["checkpoint"].update(normalisation=changed))
    assert "normalisation differs from the record; if the run was given" in failed(folder)["checkpoint"]


@pytest.mark.parametrize("part", ["x", "y"])
def test_other_data(folder: Path, part: str) -> None:
    with np.load(folder / "images.npz", allow_pickle=False) as found:
        arrays = dict(found)
    arrays[part][3] = 7 - arrays[part][3] % 7
    np.savez(folder / "images.npz", **arrays)
    assert "these are other images" in failed(folder)["data"]


def test_eps(folder: Path) -> None:
    edit(folder, lambda v: v["threat"].update(eps="0.06", eps_value=0.06))
    assert set(failed(folder)) == {"settings", "evidence"}
    edit(folder, lambda v: v["threat"].update(eps="0.02", eps_value=0.02))
    rewrite_evidence(folder, lambda _, metadata: metadata.update(threat="Linf 0.02"))
    forge_request(folder)
    assert "outside Linf 0.02" in failed(folder)["ball and box"]


def test_worst_case(folder: Path) -> None:
    edit(folder, lambda v: recount(v["worst_case"], v["columns"]["fgsm"]["robust_bits"]))
    assert "not the AND of its columns" in failed(folder)["record"]


def test_removed_column(folder: Path) -> None:
    """The strongest attack is removed, and all other numbers are adjusted: the row says that it is custom."""
    before = [(folder / name).read_bytes() for name in ("evidence.safetensors", "result.json")]
    remove_column(folder, "pgd-10")
    assert verified(folder).passed
    assert "custom: it names no suite" in {c.name: c for c in verified(folder).checks}["suite"].detail
    (folder / "evidence.safetensors").write_bytes(before[0])
    assert "evidence" in failed(folder)
    forge_request(folder)
    assert "columns" in failed(folder)
    assert "missing from the result: pgd-10" in failed(folder)["columns"]
    edit(folder, lambda value: value.update(request=json.loads(before[1])["request"]))
    assert "settings" in failed(folder)


@pytest.fixture(scope="module")
def quick(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of the suite ``quick``."""
    folder = tmp_path_factory.mktemp("quick")
    for name in ("net.pt", "images.npz"):
        shutil.copy(original / name, folder)
    run(folder, suite="quick")
    return folder


def suite_check(folder: Path) -> tuple[bool, str]:
    check = next(check for check in verified(folder).checks if check.name == "suite")
    return check.passed, check.detail


def test_a_row_of_a_named_suite(quick: Path, original: Path) -> None:
    assert verified(quick).passed
    assert suite_check(quick) == (
        True,
        "quick v1: columns, attacks and parameters are those of this release",
    )
    assert not any("suite" in sentence for sentence in verified(quick).trusted)
    assert suite_check(original) == (True, "custom: it names no suite of this release")
    assert "whether the attacks of suite custom are strong" in verified(original).trusted


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: remove_column(f, "pgd-20"), "lacks column pgd-20"),
        (
            lambda f: edit(f, lambda v: v["columns"]["pgd-20"]["attacks"][0]["params"].update(steps=1000)),
            "has steps 1000 instead of 20 in attack pgd-20",
        ),
        (
            lambda f: edit(f, lambda v: v["columns"]["fgsm"].update(title="AutoAttack")),
            "the title AutoAttack",
        ),
        (
            lambda f: edit(f, lambda v: v["columns"]["fgsm"]["attacks"][0].update(library="x 1.0")),
            "the library x 1.0 instead of adversarial-robustness-toolbox",
        ),
    ],
)
def test_a_row_that_is_not_of_the_suite_that_it_names(
    quick: Path, tmp_path: Path, change: Callable[[Path], object], problem: str
) -> None:
    """With every digest recomputed, no other check fails."""
    shutil.copytree(quick, tmp_path / "run")
    change(tmp_path / "run")
    forge_request(tmp_path / "run")
    found = failed(tmp_path / "run")
    assert set(found) == {"suite"}
    assert found["suite"].startswith("names suite quick v1, but ")
    assert problem in found["suite"]


def test_a_row_of_an_unknown_version_stays_verifiable(quick: Path, tmp_path: Path) -> None:
    shutil.copytree(quick, tmp_path / "run")
    edit(tmp_path / "run", lambda value: value["suite"].update(version=7))
    forge_request(tmp_path / "run")
    assert verified(tmp_path / "run").passed
    assert suite_check(tmp_path / "run") == (True, "quick v7 (unknown suite version): not compared")
    assert (
        "whether the attacks of suite quick v7 (unknown suite version) are strong"
        in verified(tmp_path / "run").trusted
    )


@pytest.mark.parametrize("excess", [2e-6, 5e-6])
def test_an_image_just_outside_ball_or_box(folder: Path, excess: float) -> None:
    with np.load(folder / "images.npz", allow_pickle=False) as arrays:
        x = arrays["x"].transpose(0, 3, 1, 2).astype(np.float32) / 255

    def change(tensors: Tensors, _: dict[str, str]) -> None:
        clean = x[tensors["fgsm.indices"][0]]
        tensors["fgsm.images"][0, 0, 0, 0] = clean[0, 0, 0] + float(EPS) + excess
        tensors["fgsm.images"][1].flat[tensors["fgsm.images"][1].argmin()] = -excess

    rewrite_evidence(folder, change)
    assert failed(folder)["ball and box"].startswith("2 adversarial images are outside")


def test_fewer_images(folder: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        for count in (*value["columns"].values(), value["worst_case"]):
            recount(count, count["robust_bits"][:40])
            count["n"] = 40
        value["data"]["n"] = 40
        clean = value["columns"]["clean"]["n_robust"]
        for name in ("fgsm", "pgd-10"):
            attack = value["columns"][name]["attacks"][0]
            attack.update(n_attacked=clean, n_broken=clean - value["columns"][name]["n_robust"])

    edit(folder, change)
    assert "these are other images: 40 with" in failed(folder)["data"]


@pytest.mark.parametrize(
    ("path", "new"), [("seed", 1), ("name", "full"), ("precision", "bfloat16"), ("version", 7)]
)
def test_settings(folder: Path, path: str, new: object) -> None:
    edit(folder, lambda v: v["suite"].update({path: new}))
    assert "are not those of the recorded request" in failed(folder)["settings"]


def test_attack_parameters(folder: Path) -> None:
    edit(folder, lambda v: v["columns"]["pgd-10"]["attacks"][0]["params"].update(steps=100))
    assert "settings" in failed(folder)


def test_flags_removed_or_made_harmless(tmp_path: Path, original: Path) -> None:
    shutil.copytree(original, tmp_path / "run")
    folder = tmp_path / "run"
    make_checkpoint(folder / "net.pt", scale=-1.0)
    result = run(folder)
    assert "collapsed" in {flag.id for flag in result.flags}
    assert verified(folder).passed
    edit(folder, lambda v: [flag.update(severity="warns") for flag in v["flags"]])
    assert "collapsed (blocks ranking" in failed(folder)["flags"]
    edit(folder, lambda v: v.update(flags=[]))
    assert "raised now, but not in the record: collapsed" in failed(folder)["flags"]


def test_the_record_of_a_verification_is_read_back(original: Path, tmp_path: Path) -> None:
    found = verified(original, audit=3)
    path = verification_record.path_beside(tmp_path / "result.json")
    assert path.name == "result.verification.json"
    verification_record.write(path, found)
    assert verification_record.read(path) == found
    assert str(original) not in path.read_text()
    path.write_text(found.model_dump_json().replace('"verification_version":2', '"verification_version":9'))
    with pytest.raises(UserError, match="verification version 9, newer than 2.*Upgrade"):
        verification_record.read(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a valid verification: result: Field required"):
        verification_record.read(path)


def spoil(folder: Path, content: bytes) -> None:
    (folder / "evidence.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "evidence.safetensors").unlink(),
            "There is no evidence beside .*: give it with --evidence FILE",
        ),
        (lambda f: spoil(f, (f / "evidence.safetensors").read_bytes()[:500]), "not a safetensors.*truncated"),
        (lambda f: spoil(f, b"<html>"), "is not a safetensors file"),
        (lambda f: spoil(f, safetensors.numpy.save({"x": np.zeros(3)})), "but not evidence of a run"),
        (
            lambda f: rewrite_evidence(f, lambda t, _: t.update({"fgsm.images": t["fgsm.images"][:1]})),
            "is damaged: fgsm has int64 indices",
        ),
        (lambda f: rewrite_evidence(f, lambda t, _: t.pop("fgsm.indices")), "but not evidence of a run"),
        (lambda f: edit(f, lambda v: v.update(evidence=None)), "has no evidence: it was made without"),
        (lambda f: edit(f, lambda v: v.update(status="partial")), "is partial. Finish the run"),
        (lambda f: (f / "net.pt").unlink(), "net.pt does not exist"),
        (
            lambda f: edit(f, lambda v: v["checkpoint"]["architecture"].update(id="net.py:make")),
            r"was built by net.py:make: give that code with --arch PATH/net.py:make",
        ),
    ],
)
def test_files_that_cannot_be_verified(folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=message):
        verified(folder)


def test_images_without_a_dataset_name_must_be_given(folder: Path) -> None:
    with pytest.raises(
        UserError, match="Which images.* on 60 images of npz:images.npz: give them with --data"
    ):
        verified(folder, data=None)
