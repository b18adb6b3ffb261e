"""Import of RobustBench's entries and export of a result to its format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.synthetic_results import bits, full, result

from robust_eval.core.errors import UserError
from robust_eval.core.threat import parse_threat
from robust_eval.leaderboard import robustbench_import
from robust_eval.leaderboard.board import Board, load_board
from robust_eval.leaderboard.robustbench_export import Paper, architecture_name, model_info

LINF = parse_threat("Linf", "8/255")
PAPER = Paper(
    title="A Title", additional_data=False, authors="A. Author", venue="ICML 2020", link="https://x.org"
)


def board(tmp_path: Path, source: str = "true", data: str = "cifar10", eps: str = "8/255") -> Board:
    (tmp_path / "board.toml").write_text(
        f'title = "b"\ndata = ["{data}"]\nnorm = "Linf"\neps = "{eps}"\nsuite = "full"\n'
        f"minimum_n = 1\nrobustbench = {source}\n"
    )
    return load_board(tmp_path)


def entry(**changes: object) -> str:
    value = {
        "link": "https://arxiv.org/abs/2004.05884",
        "name": "Adversarial Weight Perturbation",
        "authors": "Wu et al.",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "NeurIPS 2020",
        "architecture": "WideResNet-34-10",
        "eps": "8/255",
        "clean_acc": "85.36",
        "reported": "56.17",
        "autoattack_acc": "56.17",
    }
    return json.dumps(value | changes)


def test_entries_of_the_installed_release(tmp_path: Path) -> None:
    found = robustbench_import.published_entries(board(tmp_path))
    assert len(found) > 60
    assert [x.robust for x in found] == sorted((x.robust for x in found), reverse=True)
    (awp,) = [x for x in found if x.id == "Wu2020Adversarial"]
    assert (awp.clean, awp.robust, awp.architecture) == (85.36, 56.17, "WideResNet-34-10")
    assert awp.link == "https://arxiv.org/abs/2004.05884"
    assert awp.source.startswith("RobustBench 1.")


def test_no_entries_by_default_and_for_unknown_settings(tmp_path: Path) -> None:
    assert robustbench_import.published_entries(board(tmp_path, "false")) == []
    assert robustbench_import.published_entries(Board(tmp_path, "open")) == []
    with pytest.raises(UserError, match="RobustBench has no entries for digits. Remove robustbench"):
        robustbench_import.published_entries(board(tmp_path, data="digits"))
    with pytest.raises(UserError, match="has no CIFAR-10 models under Linf 0.031"):
        robustbench_import.published_entries(board(tmp_path, eps="0.031"))


def test_a_table_is_found_by_its_headings() -> None:
    row = "| <sub>**1**</sub> | <sub><sup>**{}**</sup></sub> | <sub>*[P](https://x.org)*</sub> | "
    row += "<sub>90.00%</sub> | <sub>{}%</sub> | <sub>WRN <br/> (3x)</sub> | <sub>ICML</sub> |"
    text = "\n".join(
        [
            "### CIFAR-10",
            "#### Linf, eps=8/255",
            row.format("first", "60.00"),
            "#### L2, eps=0.5",
            row.format("second", "70.00"),
            "### CIFAR-100",
            "#### Linf, eps=8/255",
            row.format("third", "30.00"),
            "| not | a | row |",
            row.format("fourth", "many"),
        ]
    )
    ids = [
        [found.id for found in robustbench_import.parse_tables(text, data, threat, "s")]
        for data, threat in (("cifar10", LINF), ("cifar10", parse_threat("L2", "0.5")), ("cifar100", LINF))
    ]
    assert ids == [["first"], ["second"], ["third"]]
    assert robustbench_import.parse_tables(text, "cifar10", LINF, "s")[0].architecture == "WRN  (3x)"


def test_a_folder_of_model_info(tmp_path: Path) -> None:
    folder = tmp_path / "info" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (folder / "Wu2020Adversarial.json").write_text(entry())
    (folder / "Doubtful.json").write_text(entry(autoattack_acc="80.00", external="20.00", unreliable=True))
    (folder / "Other031.json").write_text(entry(eps="0.031"))
    (folder / "Unknown.json").write_text(entry(eps=None))
    found = robustbench_import.published_entries(board(tmp_path, '"info"'))
    assert [(x.id, x.robust, x.unreliable) for x in found] == [
        ("Wu2020Adversarial", 56.17, False),
        ("Doubtful", 20.0, True),
    ]
    (folder / "Bad.json").write_text(entry(clean_acc="<script>"))
    with pytest.raises(UserError, match=r"Bad\.json is not an entry of RobustBench: clean_acc"):
        robustbench_import.published_entries(board(tmp_path, '"info"'))
    with pytest.raises(UserError, match="contains no entries of RobustBench"):
        robustbench_import.published_entries(board(tmp_path, '"nothing"'))


def test_export_and_import_again(tmp_path: Path) -> None:
    found = full(5321, n=10_000, clean=8536, data="cifar10", eps="8/255")
    info = model_info(found, PAPER)
    assert info["clean_acc"] == "85.36"
    assert info["autoattack_acc"] == "53.21"
    assert info["reported"] == "53.21"
    assert info["eps"] == "8/255"
    assert info["additional_data"] is False
    assert "RobustBench's 10,000" not in str(info["footnote"])
    assert f"checkpoint sha256 {found.checkpoint.sha256}" in str(info["footnote"])
    published = {*json.loads(entry()), "footnote", "unreliable"}
    assert set(info) == published
    folder = tmp_path / "info" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (folder / "Ours2026A.json").write_text(json.dumps(info))
    (back,) = robustbench_import.published_entries(board(tmp_path, '"info"'))
    assert (back.id, back.clean, back.robust, back.paper) == ("Ours2026A", 85.36, 53.21, "A Title")


def test_export_refuses_invalid_addresses() -> None:
    with pytest.raises(UserError, match="address 'javascript:alert' is not an http or https address"):
        model_info(full(200, data="cifar10", eps="8/255"), replace(PAPER, link="javascript:alert"))


def test_export_notes_fewer_images() -> None:
    info = model_info(full(200, data="cifar10", eps="8/255"), PAPER)
    assert "Measured on 400 images, not on RobustBench's 10,000." in str(info["footnote"])


def test_export_refuses_results_that_robustbench_does_not_accept() -> None:
    with pytest.raises(UserError, match=r"RobustBench takes cifar10, .* not digits \(test\)"):
        model_info(full(200), PAPER)
    no_aa = result({"clean": bits(100, 90), "fgsm": bits(100, 50)}, data="cifar10")
    with pytest.raises(UserError, match="RobustBench requires AutoAttack"):
        model_info(no_aa, PAPER)
    with pytest.raises(UserError, match="flags that block ranking and cannot be submitted: train-mode"):
        model_info(full(200, data="cifar10", extra_flags=["train-mode"]), PAPER)
    nonfinite = full(200, data="cifar10")
    aa = nonfinite.columns["aa"].model_copy(update={"n_nonfinite": 5})
    edited = nonfinite.model_copy(update={"flags": (), "columns": {**nonfinite.columns, "aa": aa}})
    with pytest.raises(UserError, match="cannot be submitted: non-finite-under-attack"):
        model_info(edited, PAPER)
    row = full(200, data="cifar10")
    aa = row.columns["aa"].model_copy(update={"attacks": row.columns["aa"].attacks[:1]})
    with pytest.raises(UserError, match="aa column is not the standard AutoAttack"):
        model_info(row.model_copy(update={"columns": {**row.columns, "aa": aa}}), PAPER)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("wrn-34-10", "WideResNet-34-10"),
        ("preact-resnet-18", "PreActResNet-18"),
        ("resnet-18", "ResNet-18"),
        ("vgg-16", "VGG-16"),
        ("small-cnn", "small-cnn"),
        ("net.py:make", "net.py:make"),
    ],
)
def test_architecture_names(ours: str, theirs: str) -> None:
    assert architecture_name(ours) == theirs
