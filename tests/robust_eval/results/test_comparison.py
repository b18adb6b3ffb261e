from __future__ import annotations

import pytest
from support.synthetic_results import bits, full, result

from robust_eval.core.errors import UserError
from robust_eval.results import EvalResult, comparison
from robust_eval.results.comparison import Difference


def by_column(a: EvalResult, b: EvalResult) -> dict[str, Difference]:
    return {entry.column: entry for entry in comparison.compare(a, b).differences}


def test_pairs_are_counted_image_by_image() -> None:
    a = result({"clean": bits(100, 90), "fgsm": bits(100, 60), "pgd-20": bits(100, 50)})
    b = result({"clean": bits(100, 90), "fgsm": bits(100, 60, start=10), "pgd-20": bits(100, 20)})
    found = by_column(a, b)
    assert list(found) == ["clean", "fgsm", "pgd-20", "worst case"]
    assert (found["clean"].only_a, found["clean"].only_b, found["clean"].p) == (0, 0, 1.0)
    assert (found["fgsm"].only_a, found["fgsm"].only_b) == (10, 10)
    assert found["fgsm"].value == 0
    assert (found["pgd-20"].only_a, found["pgd-20"].only_b) == (30, 0)
    # The worst case is an AND per image, not a minimum: in b only images 10..19 are robust.
    assert found["worst case"].accuracy_b == 0.10
    assert found["worst case"].only_a == 40


def test_the_sentence_of_a_clear_difference() -> None:
    a = result({"clean": bits(1000, 900), "fgsm": bits(1000, 521)}, name="a.pt")
    b = result({"clean": bits(1000, 900), "fgsm": bits(1000, 500)}, name="b.pt")
    found = by_column(a, b)["fgsm"]
    # 21 images are robust in A only: the binomial's standard deviation is 4.5 images, times 1.96.
    assert found.sentence("A", "B") == (
        "A is better by 2.1 ± 0.9 points on the same 1,000 images (p = 9.5e-07)"
    )
    assert by_column(b, a)["fgsm"].sentence("B", "A").startswith("A is better by 2.1 ± 0.9 points")


def test_the_sentence_without_a_significant_difference() -> None:
    a = result({"clean": bits(100, 90), "fgsm": bits(100, 50)})
    b = result({"clean": bits(100, 90), "fgsm": bits(100, 52, start=3)})
    found = by_column(a, b)["fgsm"]
    assert not found.significant
    sentence = found.sentence("A", "B")
    assert sentence.startswith(
        "no significant difference between A and B on the same 100 images (-2.0 points"
    )
    assert "p = 0.73" in sentence
    assert by_column(a, a)["fgsm"].sentence("A", "B") == (
        "A and B are right on exactly the same images (100 compared)"
    )


def test_the_bootstrap_is_seeded_and_close_to_the_normal_interval() -> None:
    a = result({"clean": bits(2000, 1900), "fgsm": bits(2000, 1000)})
    b = result({"clean": bits(2000, 1900), "fgsm": bits(2000, 1000, start=100)})
    one, same, other = (comparison.compare(a, b, seed=seed).differences[1].interval for seed in (0, 0, 1))
    assert one == same != other
    # sqrt(200) / 2000, times 1.96
    assert one == pytest.approx((-0.01386, 0.01386), abs=5e-4)


def test_other_images_or_threats_cannot_be_compared() -> None:
    a = full(200)
    with pytest.raises(UserError, match=r"not on the same images: A on 400 of digits \(abab.*Evaluate both"):
        comparison.compare(a, full(200, fingerprint="00" * 32))
    with pytest.raises(
        UserError, match="under different threat models: A under Linf 0.1, B under Linf 8/255"
    ):
        comparison.compare(a, full(200, eps="8/255"))


def test_columns_with_other_attacks_are_not_compared() -> None:
    a = result({"clean": bits(100, 90), "fgsm": bits(100, 60), "pgd-20": bits(100, 50)})
    weak = a.columns["pgd-20"].attacks[0].model_copy(update={"params": {"steps": 1}})
    columns = {**a.columns, "pgd-20": a.columns["pgd-20"].model_copy(update={"attacks": (weak,)})}
    del columns["fgsm"]
    found = comparison.compare(a, a.model_copy(update={"columns": columns}))
    assert found.left_out == (
        "pgd-20: the attacks have different settings",
        "fgsm: only in A",
        "worst case: it is over other attacks",
    )
    without = a.model_copy(update={"columns": {name: a.columns[name] for name in ("clean", "fgsm")}})
    assert [one.column for one in comparison.compare(a, without).differences] == ["clean", "fgsm"]
    assert [entry.column for entry in found.differences] == ["clean"]
