"""Content of the web page, and escaping of untrusted text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support import board_rows
from support.page_elements import Element, by_id, elements
from support.synthetic_results import full

from robust_eval.leaderboard.page import html
from robust_eval.leaderboard.page.view_models import safe_link
from robust_eval.leaderboard.page_extras import PageExtras, Picture, Pictures
from robust_eval.leaderboard.robustbench_import import PublishedEntry
from robust_eval.leaderboard.row import Row
from robust_eval.results import DisagreementRecord, EvalResult, FlagRecord, SearchRecord, trust
from robust_eval.results.verification_record import AuditRecord, CheckRecord, Verification

PNG = "data:image/png;base64,iVBORw0KGgo="
HOSTILE = "</script><script>alert(1)</script>\"' onload=alert(1) <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def base() -> EvalResult:
    return board_rows.template()


@pytest.fixture(scope="module")
def page(base: EvalResult) -> str:
    return html.render("Digits", board_rows.rows(base))


def rows_of(page: str) -> list[Element]:
    return [e for e in elements(page) if e.tag == "tr" and "data-row" in e.attributes]


def test_rows_are_ordered_and_show_rank_numbers_and_intervals(page: str) -> None:
    rows = rows_of(page)
    assert [row["data-row"] for row in rows] == [
        f"row-{name}" for name in ("trades-awp", "at-awp", "trades", "at", "fgsm-rs", "other")
    ]
    assert rows[0].text.startswith("1 trades-awp best.pt digits-cnn n 400, float32 98.75 97.1–99.5 ")
    assert "76.50 72.1–80.4" in rows[0].text
    for expected in ("400", "float32", "validation", "self-reported", "none"):
        assert expected in rows[0].text
    assert rows[4].text.endswith("▲ random-gradients")
    assert rows[5].text.startswith("– other partial best.pt")


def test_rows_without_significant_difference_share_a_rank(base: EvalResult) -> None:
    rows = [Row(f"{n}.json", board_rows.result(base, "at", seed=n)) for n in range(2)]
    assert [row.text.split()[0] for row in rows_of(html.render("b", rows))] == ["1=", "1="]


def test_each_setting_has_its_own_table(base: EvalResult) -> None:
    rows = [Row(f"{eps}.json", board_rows.result(base, "at", eps=eps)) for eps in ("0.1", "0.15")]
    found = elements(html.render("b", rows))
    assert [e.text for e in found if e.tag == "h2" and e.attributes.get("id", "").startswith("group-")] == [
        "digits (test), Linf 0.1",
        "digits (test), Linf 0.15",
    ]
    assert any(e.text.startswith("Robust accuracy against epsilon: digits, Linf") for e in found)


def test_a_board_can_rank_by_another_column(base: EvalResult) -> None:
    page = html.render("b", board_rows.rows(base), by="clean")
    assert "ranked by Clean" in next(e for e in elements(page) if e.attributes.get("class") == "note").text
    assert rows_of(page)[0].text.startswith("1= at-awp")
    assert "under Clean" in by_id(page, "row-at").text


def test_published_entries_are_in_a_separate_marked_table(base: EvalResult) -> None:
    entry = PublishedEntry(
        "Wu2020", "A <b>paper</b>", "https://example.org/a", "WRN", "NeurIPS", 88.25, 60.04, "RB 1.1"
    )
    entries = [entry, replace(entry, id="Evil", link="javascript:alert(1)", unreliable=True)]
    page = html.render("b", board_rows.rows(base), published=entries)
    assert len(rows_of(page)) == 6
    lines = [e.text for e in elements(page) if e.tag == "tr" and "not re-judged" in e.text]
    assert lines == [
        "Wu2020 A <b>paper</b> WRN NeurIPS 88.25 60.04 reported, not re-judged",
        "Evil A <b>paper</b> WRN NeurIPS 88.25 60.04 reported, not re-judged; "
        "marked as unreliable by RobustBench",
    ]
    links = [e["href"] for e in elements(page) if e.tag == "a" and e.text == "A <b>paper</b>"]
    assert links == ["https://example.org/a"]


def test_pairs_show_their_paired_difference(page: str) -> None:
    pairs = [e for e in elements(page) if e.attributes.get("class") == "pair"]
    assert [pair["aria-label"] for pair in pairs] == [
        "trades with and without AWP",
        "at with and without AWP",
    ]
    assert "+10.0 ±3.2 points of worst case: better with AWP" in pairs[0].text
    assert "Worst case 66.50 76.50 +10.0 ±3.2" in pairs[0].text


@pytest.mark.parametrize(
    ("strength", "expected", "shown"),
    [
        (1.9, "better with AWP", "headline better"),
        (1.2, "worse with AWP", "headline worse"),
        (1.52, "no significant difference", "headline"),
    ],
)
def test_gain_and_loss_by_awp_are_shown_differently(
    base: EvalResult, strength: float, expected: str, shown: str
) -> None:
    rows = [
        Row("a.json", board_rows.result(base, "at")),
        Row("b.json", board_rows.result(base, "at-awp", strength=strength)),
    ]
    (headline,) = (
        one
        for one in elements(html.render("b", rows))
        if "points of worst case" in one.text and one.tag == "p"
    )
    assert expected in headline.text
    assert headline.attributes["class"] == shown


def test_the_detail_view_shows_how_a_row_was_obtained(base: EvalResult) -> None:
    curve = {"epoch": [1.0, 2.0], "train_pgd": [0.3, 0.4], "val_pgd": [0.3, float("nan")]}
    example = Picture(
        index=3,
        label="seven",
        column="FGSM",
        seen_as="one",
        clean=PNG,
        adversarial=PNG,
        difference=PNG,
        amplified=5,
    )
    extras = {"results/fgsm-rs.json": PageExtras(curve, Pictures(size=(8, 8), examples=(example,)))}
    page = html.render("b", board_rows.rows(base), extras)
    detail = by_id(page, "row-fgsm-rs").text
    for expected in (
        "Rank 5",
        "gradients of one input differ by 9%",
        "Gradients of the same input differ",
        "Worst case 46.50 41.7 – 51.4 186/400",
        "4 at",
        "train, PGD",
        "seven → one image 3, FGSM, difference ×5",
        "steps 20, step_linf 0.25",
        "robust-eval run best.pt --suite standard --seed 0",
        "recipe.perturbation.kind none",
        "libraries.torch",
        "forward",
    ):
        assert expected in detail
    assert [e["src"] for e in elements(page) if e.tag == "img"] == [PNG] * 3
    assert "Partial; missing columns: aa." in by_id(page, "row-other").text


def test_the_detail_view_shows_search_notes_and_disagreement(base: EvalResult) -> None:
    lost = DisagreementRecord(images=64, attacks=("fgsm", "pgd-20"), verdicts=128, weaker=2, stronger=1)
    search = SearchRecord(notes=("searches in bfloat16",), tunings={}, disagreement=lost)
    suite = base.suite.model_copy(update={"precision": "bfloat16"})
    row = board_rows.result(base.model_copy(update={"search": search, "suite": suite}), "at")
    text = by_id(html.render("b", [Row("a.json", row)]), "row-a").text
    assert "searches in bfloat16" in text
    assert "disagreement in 128 verdicts" in text
    assert "2 broken by float32 alone, 1 by bfloat16 alone (fgsm, pgd-20)" in text


def test_the_detail_view_shows_the_verification(base: EvalResult) -> None:
    audit = AuditRecord(
        columns=("fgsm", "aa"),
        seed=7,
        n=10,
        of=12,
        broken_own=(3,),
        broken_fresh=(),
        contradicted=(3,),
        images=20,
        images_equal=20,
        robust_alone=(1, 0, 0),
        p=1 / 3,
        passed=False,
        forwards=1,
        backwards=1,
        seconds=2.5,
    )
    record = Verification(
        result="0" * 64,
        checks=(CheckRecord(name="still wrong", passed=True, detail="so it is"),),
        trusted=("the date",),
        audit=audit,
        forwards=1234,
        seconds=0.5,
        share=0.0009,
        robust_eval="0.1.0",
        device="cpu",
        created="2026-01-01",
    )
    text = by_id(html.render("b", [Row("a.json", board_rows.result(base, "at"), record)]), "row-a").text
    for expected in (
        "failed verification",
        "still wrong passed: so it is",
        "audit failed: 10 of 12 robust examples attacked again by fgsm, aa, audit seed 7. Own seed: 1 ",
        "20 of 20 stored images repeated bit for bit, so that the record of 1 example is false. ",
        "taken on trust the date",
        "cost 1,234 forward passes, 0.50 s, 0.09% of what the evaluation took; audit: 1 forward and 1 ",
    ):
        assert expected in text


def test_anchors_are_made_from_file_names_and_are_unique(base: EvalResult) -> None:
    files = ["results/a b.json", "results/a-b.json", "results/ünï.json"]
    page = html.render(
        "b", [Row(file, board_rows.result(base, "at", seed=n)) for n, file in enumerate(files)]
    )
    assert {row["data-row"] for row in rows_of(page)} == {"row-a-b", "row-a-b-2", "row--n-"}
    ids = [e["id"] for e in elements(page) if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    targets = {e["href"][1:] for e in elements(page) if e.attributes.get("href", "").startswith("#")}
    assert targets <= set(ids)


def test_the_same_rows_give_the_same_page(base: EvalResult, page: str) -> None:
    assert html.render("Digits", board_rows.rows(base)) == page


def hostile(base: EvalResult, text: str) -> Row:
    """A row with ``text`` in every field that may contain untrusted text."""
    result = board_rows.result(base, "at", file=text)
    columns = {
        name: column.model_copy(
            update={
                "title": text,
                "attacks": tuple(
                    attack.model_copy(
                        update={
                            "id": text,
                            "library": text,
                            "citation": text,
                            "note": text,
                            "params": {text: text},
                        }
                    )
                    for attack in column.attacks
                ),
            }
        )
        for name, column in result.columns.items()
    }
    flag = FlagRecord(id=text, severity="warns", figure=text, threshold=text, advice=text)
    checkpoint = result.checkpoint.model_copy(
        update={
            "architecture": result.checkpoint.architecture.model_copy(
                update={"id": text, "arguments": {text: text}}
            ),
            "trained_with": {"recipe": {"name": text}, "link": text, text: text},
            "format": text,
            "dataset": text,
            "notes": (text,),
        }
    )
    environment = base.environment.model_copy(update={"platform": text, "libraries": {text: text}})
    data = result.data.model_copy(update={"name": text, "split": text, "order": text})
    suite = result.suite.model_copy(update={"name": text, "precision": text})
    changes = {"columns": columns, "flags": (flag,), "checkpoint": checkpoint, "environment": environment}
    changes |= {"data": data, "suite": suite, "command": text, "created": text}
    return Row(f"results/{text.replace('/', '-')}.json", result.model_copy(update=changes))


def hostile_page(base: EvalResult, text: str) -> str:
    row = hostile(base, text)
    example = Picture(
        index=0,
        label=text,
        column=text,
        seen_as=text,
        clean=PNG,
        adversarial=PNG,
        difference=PNG,
        amplified=2,
    )
    return html.render(text, [row], {row.file: PageExtras(None, Pictures(size=(1, 1), examples=(example,)))})


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "<!--",
        "--><svg onload=alert(1)>",
        "]]>",
        "javascript:alert(1)",
        "{{ 7 * 7 }}{% raw %}",
        "line\u2028break\n<b>",
        "\u202egnp.exe\u0007",
    ],
)
def test_hostile_text_is_escaped(base: EvalResult, text: str) -> None:
    """Elements and attributes are the same as for a harmless row."""
    page = hostile_page(base, text)

    def shape(found: list[Element]) -> Counter[tuple[str, tuple[str, ...]]]:
        # Labels of a chart are left out where they find no room.
        return Counter((e.tag, tuple(e.attributes)) for e in found if e.tag != "text")

    assert shape(elements(page)) == shape(elements(hostile_page(base, "harmless")))
    assert not any(character in page for character in "\u202e\u0007\u2028")
    for element in elements(page):
        assert not any(name.startswith("on") or name == "style" for name in element.attributes)


def test_the_embedded_data_cannot_end_its_script(base: EvalResult) -> None:
    page = hostile_page(base, HOSTILE)
    embedded = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(embedded) == 1
    assert "<" not in embedded[0]
    data = json.loads(embedded[0])
    assert data["title"] == HOSTILE
    assert data["groups"][0]["rows"][0]["architecture"] == HOSTILE


def test_the_page_loads_nothing(page: str) -> None:
    for element in elements(page):
        assert element.tag not in {"iframe", "object", "embed", "base", "audio", "video"}
        assert element.attributes.get("src", PNG).startswith("data:image/png;base64,")
        href = element.attributes.get("href", "#")
        if element.tag == "link":
            assert (element["rel"], href) == ("icon", "data:,")
        elif not href.startswith(("#", "./results/")):
            assert (element.tag, element["rel"]) == ("a", "noopener noreferrer nofollow external")
            assert href == "https://example.org/paper"
        assert not {"srcset", "action", "poster", "ping"} & set(element.attributes)
    style = next(e.text for e in elements(page) if e.tag == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_the_security_policy_allows_only_the_page_s_own_style_and_scripts(page: str) -> None:
    (policy,) = [
        e["content"] for e in elements(page) if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        for attributes, content in re.findall(rf"<{tag}([^>]*)>(.*?)</{tag}>", page, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy or "application/json" in attributes


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://arxiv.org/abs/2004.05884", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        ("java\nscript:alert(1)", False),
        (" https://example.org", False),
        ("data:text/html,x", False),
        ("//example.org", False),
        ("https://", False),
        ("https://[", False),
        ("file:///etc/passwd", False),
        ("vbscript:x", False),
        (7, False),
    ],
)
def test_only_http_addresses_are_linked(url: object, allowed: bool) -> None:
    assert safe_link(url) == (url if allowed else None)


def test_a_file_name_is_quoted_in_its_address(base: EvalResult) -> None:
    page = html.render("b", [Row("javascript:alert(1)?x#y.json", board_rows.result(base, "at"))])
    (href,) = [e["href"] for e in elements(page) if e.tag == "a" and e.text == "result file"]
    assert href == "./javascript%3Aalert%281%29%3Fx%23y.json"


def test_build_writes_the_page(base: EvalResult, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from robust_eval.cli.leaderboard import leaderboard_app

    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "at.json").write_text(board_rows.result(base, "at").to_json())
    (tmp_path / "results" / "at.curve.csv").write_text("epoch,train_pgd\n1,0.25\n2,0.5\n")
    done = CliRunner().invoke(leaderboard_app, ["build", str(tmp_path), "--title", "Mine"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Learning curve" in by_id(page, "row-at").text
    assert [e.text for e in elements(page) if e.tag == "h1"] == ["Mine"]


def test_a_row_that_names_a_suite_falsely_is_custom() -> None:
    value = full(200, name="weak.pt").model_dump(mode="json")
    value["columns"]["pgd-20"]["attacks"][0]["params"]["steps"] = 1
    weak = Row("weak.json", EvalResult.model_validate(value))
    page = html.render("b", [Row("a.json", full(200)), weak])
    notes = [e.text for e in elements(page) if e.attributes.get("class") == "note"]
    assert any("suite custom (claims full v1); 1 of 1 row ranked" in note for note in notes)
    assert any("suite full v1; 1 of 1 row ranked" in note for note in notes)
    text = by_id(page, "row-weak").text
    assert (
        "Custom suite: this row names suite full v1, but has steps 1 instead of 20 in attack pgd-20" in text
    )
    assert "suite as recorded full, version 1" in text
    assert "Custom suite" not in by_id(page, "row-a").text


def test_what_verification_takes_on_trust_is_said_once(base: EvalResult, page: str) -> None:
    section = by_id(page, "trust").text
    assert all(sentence in section for sentence in trust.GENERAL)
    assert page.count("What verification takes on trust") == 1
