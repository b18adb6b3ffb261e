"""Cases with planted results: contradictory or suspicious numbers, checked without a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from robust_eval.core import image_sketch
from robust_eval.core.statistics import wilson
from robust_eval.core.types import Bools
from robust_eval.core.verdict_bits import bits_text
from robust_eval.results import (
    ArchitectureRecord,
    AttackRecord,
    CheckpointRecord,
    ColumnRecord,
    DataRecord,
    NormalisationRecord,
    flags,
)
from robust_eval.verification.selftest.case import Case, flag_ids, make_case

N = 1000
# Table 2 of the AWP paper, in percent.
_AT_AWP = {"clean": 85.57, "fgsm": 62.9, "pgd-20": 58.14, "pgd-100": 57.94, "cw-inf": 55.96, "aa": 54.04}
_MART = {"clean": 84.17, "fgsm": 61.61, "pgd-20": 58.56, "pgd-100": 57.88, "cw-inf": 54.58, "aa": 51.1}


def column(bits: Bools, square: int = 0) -> ColumnRecord:
    """A column with verdicts ``bits`` (n,); Square broke ``square`` of its examples."""
    n, robust = len(bits), int(bits.sum())
    attacks = (_square(robust + square, square),) if square else ()
    return ColumnRecord(
        title="planted",
        accuracy=robust / n,
        n=n,
        n_robust=robust,
        ci95=wilson(robust, n),
        robust_bits=bits_text(bits),
        forwards=0,
        backwards=0,
        seconds=0.0,
        n_invalid=0,
        n_nonfinite=0,
        attacks=attacks,
    )


def _square(attacked: int, broken: int) -> AttackRecord:
    return AttackRecord(
        id="square",
        family="autoattack",
        version=1,
        library="planted",
        citation="planted",
        params={"phase": "square"},
        n_attacked=attacked,
        n_broken=broken,
        n_invalid=0,
        forwards=0,
        backwards=0,
        seconds=0.0,
    )


def flags_of_accuracies(values: Mapping[str, Any]) -> set[str]:
    """Flags raised by accuracies in percent, per column id; every column breaks the last examples first.

    Other keys: ``n``; ``square``, the number of AutoAttack's examples broken by Square; ``shift``, a column
    whose robust examples are shifted by three.
    """
    n = values.get("n", N)
    columns = {}
    for name, percent in values.items():
        if name not in ("n", "square", "shift"):
            bits = np.arange(n) < round(n * percent / 100)
            bits = np.roll(bits, -3) if name == values.get("shift") else bits
            columns[name] = column(bits, values.get("square", 0) if name == "aa" else 0)
    return flag_ids(flags.from_columns(columns, 10))


def flags_of_claims(trained_with: Mapping[str, Any], dataset: str) -> set[str]:
    """Flags raised by a checkpoint's claims, given a clean accuracy of 90% on the dataset ``planted``."""
    checkpoint = CheckpointRecord(
        name="planted.pt",
        sha256="0" * 64,
        architecture=ArchitectureRecord(id="planted"),
        classes=10,
        normalisation=NormalisationRecord(name="none", mean=(0.0,), std=(1.0,)),
        format="robust-eval",
        dataset=dataset,
        trained_with=dict(trained_with),
        notes=(),
    )
    data = DataRecord(name="planted", split="test", n=N, fingerprint="0" * 64, class_names=(), order="stored")
    return flag_ids(flags.from_record(checkpoint, data, column(np.arange(N) < 0.9 * N)))


def flags_of_overlap(shared: int) -> set[str]:
    """Flags raised by a checkpoint that was trained on ``shared`` of the 500 evaluated images."""
    x_NHWC = np.random.RandomState(0).randint(0, 256, (1000, 4, 4, 1), np.uint8)
    trained_on = image_sketch.sketch([x_NHWC[:500]])
    return flag_ids(
        flags.from_overlap(image_sketch.overlap(trained_on, x_NHWC[500 - shared : 1000 - shared]))
    )


_NO_EFFECT = "attack-without-effect"
_ROWS: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    ("AT-AWP in the AWP paper, Table 2", (), _AT_AWP),
    ("MART in the same table", (), _MART),
    ("FGSM beats PGD", ("weaker-beats-stronger",), {"clean": 90, "fgsm": 40, "pgd-20": 60}),
    ("PGD beats AutoAttack", ("weaker-beats-stronger",), {"clean": 90, "pgd-20": 40, "aa": 45}),
    ("SPSA beats PGD", ("black-box-beats-white-box",), {"clean": 90, "pgd-20": 60, "spsa": 50}),
    ("Square beats gradients", ("black-box-beats-white-box",), {"clean": 90, "aa": 50, "square": 20}),
    ("PGD far above AutoAttack", ("pgd-far-above-autoattack",), {"clean": 90, "pgd-20": 60, "aa": 50}),
    ("FGSM equal to clean", (_NO_EFFECT,), {"clean": 95.4, "fgsm": 95.4, "pgd-20": 0.1}),
    ("robust where clean is wrong", ("robust-above-clean",), {"clean": 50, "fgsm": 40, "shift": "fgsm"}),
    ("robust above clean", ("robust-above-clean", _NO_EFFECT), {"clean": 50, "fgsm": 52}),
    ("10% clean and robust", ("collapsed", _NO_EFFECT), {"clean": 10, "pgd-20": 10}),
    ("forty examples", ("too-few-examples",), {"clean": 90, "pgd-20": 50, "n": 40}),
)
_TEST_95 = {"metrics": {"test_clean": 0.95}}
_VALIDATION = {"provenance": {"selected": "validation"}, "metrics": {"val_clean": 0.9}}
_TEST_92 = {"metrics": {"test_clean": 0.92}, "recipe": {"selection": {"test_images": 100}}}
_RICE = {"file_says": {"test_robust_acc": 0.53}}
_CLAIMS: tuple[tuple[str, tuple[str, ...], dict[str, Any], str], ...] = (
    ("best on the test set", ("selected-on-test",), {"provenance": {"selected": "test"}}, "planted"),
    ("a file of Rice et al.'s code", ("selected-on-test",), _RICE, "planted"),
    ("best on validation images", (), _VALIDATION, "planted"),
    ("records 95% on the test set, 90% measured", ("clean-accuracy-differs",), _TEST_95, "planted"),
    ("records 92% of 100 test images, 90% measured", (), _TEST_92, "planted"),
    ("records 95% on another dataset, 90% measured", (), _TEST_95, "other"),
)


def cases() -> list[Case]:
    return [
        *(
            make_case("numbers", name, expected, partial(flags_of_accuracies, values))
            for name, expected, values in _ROWS
        ),
        *(
            make_case("record", name, expected, partial(flags_of_claims, trained_with, dataset))
            for name, expected, trained_with, dataset in _CLAIMS
        ),
        make_case(
            "record",
            "evaluated on its training images",
            ("judged-on-training-images",),
            partial(flags_of_overlap, 500),
        ),
        make_case("record", "four of 500 images are in its training set", (), partial(flags_of_overlap, 4)),
    ]
