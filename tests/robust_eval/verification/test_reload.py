"""The flags that a foreign file raised when it was loaded are raised again by verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.forgeries import edit
from support.published_runs import failed, run, verified
from torch.nn.functional import gelu

from robust_eval import data
from robust_eval.results import read_result
from robust_eval.verification.options import VerifyOptions
from robust_eval.verification.reload import contradiction
from robust_eval.verification.selftest.foreign_files import Foreign, State, trained_without_batchnorm

UNCERTAIN, MISMATCH, ARCHITECTURE = "normalisation-uncertain", "batchnorm-mismatch", "architecture-uncertain"


@dataclass(frozen=True)
class Row:
    """A foreign file, the options of its run, and the flag of loading that they raise."""

    make: Callable[[], State]
    flag: str = ""
    arch: str | None = None
    normalisation: str | None = None

    def options(self) -> dict[str, Any]:
        given = {"arch": self.arch, "normalisation": self.normalisation}
        return {name: value for name, value in given.items() if value is not None}


FLAGGED = {
    "normalisation": Row(trained_without_batchnorm, UNCERTAIN),
    "statistics": Row(Foreign(scale=2.0).state, MISMATCH, normalisation="none"),
    "named activation": Row(
        Foreign(gelu).state, MISMATCH, arch="wrn-10-1?activation=softplus", normalisation="none"
    ),
    "last layer": Row(Foreign(bias=False).state, ARCHITECTURE),
}
NAMED = {
    "normalisation": Row(trained_without_batchnorm, normalisation="none"),
    "other numbers": Row(trained_without_batchnorm, normalisation="0.01/0.99"),
    "last layer": Row(Foreign(bias=False).state, arch="wrn-10-1?head=linear"),
    "two arguments": Row(Foreign(gelu, bias=False).state, arch="wrn-10-1?head=linear&activation=gelu"),
}


def published(row: Row, folder: Path) -> Path:
    images = data.load("digits")
    np.savez(folder / "images.npz", x=images.x_NHWC, y=images.y_N, class_names=np.array(images.class_names))
    torch.save(row.make(), folder / "net.pt")
    run(folder, suite="fgsm", examples=60, **row.options())
    return folder


def loading_flags(folder: Path) -> set[str]:
    recorded = {flag.id for flag in read_result(folder / "result.json").flags}
    return recorded & {UNCERTAIN, MISMATCH, ARCHITECTURE}


@pytest.mark.parametrize(
    "case",
    ["normalisation", "statistics", "last layer", pytest.param("named activation", marks=pytest.mark.slow)],
)
def test_a_flag_of_loading_that_was_removed_is_found(case: str, tmp_path: Path) -> None:
    row = FLAGGED[case]
    folder = published(row, tmp_path)
    assert loading_flags(folder) == {row.flag}
    found = verified(folder)
    assert found.passed, found.checks
    edit(folder, lambda v: v.update(flags=[flag for flag in v["flags"] if flag["id"] != row.flag]))
    assert (
        f"raised now, but not in the record: {row.flag} (blocks ranking"
        in failed(folder, **row.options())["flags"]
    )


@pytest.mark.parametrize("case", NAMED)
def test_what_the_user_named_raises_no_flag_and_need_not_be_named_again(case: str, tmp_path: Path) -> None:
    folder = published(NAMED[case], tmp_path)
    assert loading_flags(folder) == set()
    assert verified(folder).passed


def test_a_normalisation_that_the_run_did_not_name_cannot_silence_a_flag(tmp_path: Path) -> None:
    folder = published(FLAGGED["normalisation"], tmp_path)
    edit(folder, lambda v: v.update(flags=[flag for flag in v["flags"] if flag["id"] != UNCERTAIN]))
    name = read_result(folder / "result.json").checkpoint.normalisation.name
    message = "by the record, the run had no --normalisation: verify without it"
    assert failed(folder, normalisation=name)["flags"] == message


def test_arguments_that_the_run_did_not_name_cannot_silence_a_flag(tmp_path: Path) -> None:
    folder = published(FLAGGED["last layer"], tmp_path)
    edit(folder, lambda v: v.update(flags=[flag for flag in v["flags"] if flag["id"] != ARCHITECTURE]))
    record = read_result(folder / "result.json").checkpoint
    options = VerifyOptions(arch="wrn-10-1?head=linear")
    assert contradiction(record, options).startswith("by the record, the run had no --arch ID?head=VALUE")
    assert failed(folder, arch="wrn-10-1?head=linear")
