"""Commands verify, compare, gate and leaderboard: exit codes and messages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.command_line import Run, command_runner, refused
from support.synthetic_results import full
from support.untrained_checkpoint import untrained

from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.models.architectures import build
from robust_eval.models.loading.checkpoint import CheckpointDescription, save
from robust_eval.results import verification_record


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call ``robust-eval`` in an empty folder: (exit code, stdout, stderr), on single long lines."""
    return command_runner(capsys, monkeypatch, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two results on the same images, and some invalid result files."""
    (tmp_path / "a.json").write_text(full(200, name="a.pt").to_json())
    (tmp_path / "b.json").write_text(full(150, name="b.pt").to_json())
    (tmp_path / "other.json").write_text(full(150, fingerprint="00" * 32).to_json())
    (tmp_path / "cut.json").write_text(full(150).to_json()[:300])
    (tmp_path / "new.json").write_text(full(150).to_json().replace('version": 1', 'version": 7', 1))
    (tmp_path / "nan.json").write_text(full(150).to_json().replace('"n": 400', '"n": NaN', 1))
    value = json.loads(full(150).to_json())
    value["columns"]["aa"]["accuracy"] = 0.9
    (tmp_path / "edited.json").write_text(json.dumps(value))
    value = json.loads(full(150).to_json())
    value["columns"]["aa"]["attacks"][0]["params"]["version"] = "plus"
    (tmp_path / "claims.json").write_text(json.dumps(value))
    return tmp_path


def test_compare(run: Run, files: Path) -> None:
    code, out, _ = run("compare", "a.json", "b.json")
    assert code == 0
    assert "a.pt and b.pt on digits, Linf 0.1" in out
    assert re.search(r"aa\s+50.00\s+37.50  a.pt is better by 12.5 ± 3.\d points on the same 400 images", out)
    assert "worst case" in out
    code, out, _ = run("compare", "a.json", "a.json")
    assert "A and B are right on exactly the same images" in out


def test_gate(run: Run, files: Path) -> None:
    assert run("gate", "a.json", "--min-robust", "50", "--column", "aa")[:2] == (
        0,
        "Passed: 50.00% under aa, minimum 50%.\n",
    )
    code, out, _ = run("gate", "a.json", "--min-robust", "51")
    assert code == 1
    assert "Robust accuracy under worst-case is 50.00% (200/400), below the minimum of 51%." in out
    refused(run("gate", "a.json", "--min-robust", "0.5"), "Did you mean 50")
    refused(run("gate", "a.json", "--min-robust", "5", "--column", "pdg-20"), "Did you mean pgd-20")
    assert run("gate", "a.json")[0] == 2


@pytest.mark.parametrize("words", [("gate", "{}", "--min-robust", "1"), ("compare", "a.json", "{}")])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("cut.json", r"cut\.json is not readable as JSON .* Is it truncated\?"),
        ("new.json", r"schema version 7, newer than 1, .*Upgrade robust-eval"),
        ("nan.json", "contains NaN"),
        ("edited.json", r"contradicts itself: aa: accuracy 0.9 is not 150/400. It was edited or damaged"),
        (
            "claims.json",
            r"names suite full v1, but has version .plus. instead of .standard. in attack apgd-ce",
        ),
        ("none.json", r"none\.json does not exist"),
    ],
)
def test_bad_results(run: Run, files: Path, words: tuple[str, ...], file: str, message: str) -> None:
    refused(run(*(word.format(file) for word in words)), message)


def test_a_precision_below_float32_is_reported(run: Run, tmp_path: Path) -> None:
    """By run, before and after the attacks, and by compare and verify."""
    untrained(tmp_path / "net.pt", width=4)
    words = ["run", "net.pt", "--data", "digits", "--suite", "fgsm", "--examples", "60"]
    _, plain, _ = run(*words, "--out", "high")
    assert "bfloat16" not in plain
    code, out, _ = run(*words, "--out", "low", "--precision", "bfloat16")
    assert code == 0
    assert "seed 0, attacks in bfloat16 on cpu" in out
    assert re.search(
        r"bfloat16 search, beside float32 on \d+ images: of \d+ verdicts \d+ broken by float32", out
    )
    one, other = "high/result.json", "low/result.json"
    _, out, _ = run("compare", one, other)
    assert "attacks of high in float32, of low in bfloat16; all verdicts are float32" in out
    assert "float32" not in run("compare", one, one)[1]
    _, out, _ = run("verify", other, "--checkpoint", "net.pt")
    assert "ran with the recorded settings, with attacks in bfloat16" in out
    refused(run(*words, "--out", "low"), "another request .it differs in: precision.")
    code, out, _ = run(*words, "--out", "low", "--precision", "bfloat16", "--compile", "off")
    assert code == 0, "how the attack copy is called is not part of the request"


def test_results_that_cannot_be_compared(run: Run, files: Path) -> None:
    refused(run("compare", "a.json", "other.json"), "not on the same images")


def test_add_build_and_check_a_board(run: Run, files: Path) -> None:
    assert run("leaderboard", "add", "a.json", "board")[0] == 0
    assert "README.md: 1 row\n" in run("leaderboard", "build", "board")[1]
    Path("board/README.md").unlink()
    assert run("leaderboard", "add", "b.json", "board")[0] == 0
    refused(run("leaderboard", "add", "a.json", "board"), "already has a row for this checkpoint")
    code, out, _ = run("leaderboard", "check", "board")
    assert code == 1
    assert "README.md is missing: run robust-eval leaderboard build" in out
    assert run("leaderboard", "build", "board")[0] == 0
    assert run("leaderboard", "check", "board") == (0, "board: 2 rows, tables and rules are correct\n", "")
    (files / "board" / "results" / "twice.json").write_text((files / "a.json").read_text())
    shown = run("leaderboard", "build", "board")[1]
    assert re.search(r"leaderboard check will fail: results/\S+ is a second row for the checkpoint of", shown)
    (files / "board" / "results" / "twice.json").unlink()
    (files / "board" / "results" / "cut.json").write_text((files / "cut.json").read_text())
    code, out, _ = run("leaderboard", "check", "board")
    assert code == 1
    assert "results/cut.json is malformed" in out
    refused(run("leaderboard", "build", "board"), "cut.json is not readable as JSON")
    refused(run("leaderboard", "check", "nowhere"), "is not a folder")


def test_board_commands_do_not_import_torch(files: Path) -> None:
    """Filing, building and checking read numbers only, and take one second instead of ten."""
    code = (
        "import sys; from robust_eval.cli.main import main\n"
        "for words in (['add', 'a.json', 'board'], ['build', 'board'], ['check', 'board']):\n"
        "    sys.argv = ['robust-eval', 'leaderboard', *words]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n        assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=files, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_malicious_texts_in_results_are_neutralised(run: Run, files: Path) -> None:
    """HTML, Markdown, terminal codes and direction marks in every text of a result are neutralised."""
    evil = "<script>alert(1)</script>\x1b[2J|[x](javascript:alert(1))\u202e![i](http://evil.example/t.png)"
    row = full(200, trained_with={"recipe": {"name": evil, evil: evil}})
    value = json.loads(row.to_json())
    value["checkpoint"] |= {"name": evil, "dataset": evil, "format": evil, "notes": [evil]}
    value["checkpoint"]["architecture"] |= {"id": evil}
    value["checkpoint"]["normalisation"] |= {"name": evil}
    value["data"] |= {"name": evil, "split": evil, "order": evil, "class_names": [evil] * 10}
    value["suite"] |= {"precision": evil, "name": evil}
    value["flags"] = [
        {"id": evil, "severity": "warns", "figure": evil, "threshold": evil, "advice": evil},
        *value["flags"],
    ]
    value["environment"] |= {"device": evil, "python": evil, "libraries": {evil: evil}}
    value |= {"command": evil, "created": evil}
    for column in value["columns"].values():
        column["title"] = evil
        for attack in column["attacks"]:
            attack |= {"citation": evil, "note": evil, "library": evil}
    value["columns"][evil] = value["columns"].pop("aa")
    for names in (value["suite"], value["worst_case"]):
        names["columns"] = [evil if name == "aa" else name for name in names["columns"]]
    board = files / "board" / "results"
    board.mkdir(parents=True)
    (board / "evil.json").write_text(json.dumps(value))
    assert run("leaderboard", "build", "board")[0] == 0
    code, out, err = run("leaderboard", "check", "board")
    assert code == 0, out
    table, page = ((files / "board" / name).read_text() for name in ("README.md", "index.html"))
    for text in (table, page, out, err):
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert not re.search(r"(?<!\\)\]\((?!results/)", table)
    assert "http://evil" not in table
    assert 'href="javascript' not in page
    assert 'src="http' not in page
    refused(run("leaderboard", "add", str(board / "evil.json"), "other"), "cannot be a file name")
    code, out, _ = run("compare", str(board / "evil.json"), str(board / "evil.json"))
    assert code == 0
    assert "\x1b" not in out


def test_export(run: Run, files: Path) -> None:
    row = full(200, data="cifar10", eps="8/255")
    (files / "cifar.json").write_text(row.to_json())
    words = ("leaderboard", "export", "cifar.json", "--title", "T", "--no-additional-data")
    code, out, _ = run(*words)
    assert code == 0
    assert json.loads(out)["autoattack_acc"] == "50.00"
    assert run(*words, "--out", "info.json")[0] == 0
    assert json.loads((files / "info.json").read_text())["name"] == "T"
    refused(run("leaderboard", "export", "a.json", *words[3:]), "RobustBench takes cifar10")
    assert run("leaderboard", "export", "cifar.json", "--title", "T")[0] == 2, (
        "--additional-data or --no-additional-data is required"
    )


@pytest.fixture
def evaluated(run: Run, tmp_path: Path) -> Path:
    """The result of a run with a checkpoint in this project's format."""
    torch.manual_seed(0)
    network = build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=4, hidden=16)
    shape = {"classes": 10, "channels": 1, "image_size": (8, 8)}
    architecture = Architecture("digits-cnn", {"width": 4, "hidden": 16})
    threat = parse_threat("Linf", "0.1")
    save(
        tmp_path / "net.pt",
        network,
        CheckpointDescription(
            architecture=architecture,
            normalisation=Normalisation("none"),
            dataset="digits",
            threat=threat,
            **shape,
        ),  # type: ignore[arg-type]
    )
    assert run("run", "net.pt", "--suite", "fgsm", "--examples", "60", "--out", "o")[0] == 0
    return tmp_path / "o" / "result.json"


def test_verify(run: Run, evaluated: Path) -> None:
    words = ("verify", "o/result.json", "--checkpoint", "net.pt")
    code, out, _ = run(*words, "--evidence", "o/evidence.safetensors")
    assert code == 0, out
    assert "Verified." in out
    assert out.count("Taken on trust:") == 1
    assert "ok      suite: custom: it names no suite of this release" in out
    assert re.search(r"Cost: [\d,]+ forward passes, .* of what the evaluation took", out)
    assert verification_record.read(evaluated.with_name("result.verification.json")).passed

    record = evaluated.with_name("result.verification.json").read_bytes()
    assert "Already recorded: o/result.verification.json. Use --out FILE" in run(*words)[1]
    assert evaluated.with_name("result.verification.json").read_bytes() == record

    # Verifying with another checkpoint by mistake does not replace the record of a passed verification.
    at = evaluated.parents[1]
    weights = torch.load(at / "net.pt", weights_only=True)["state_dict"]
    torch.save({name: value + 1 for name, value in weights.items()}, at / "other.pt")
    code, out, _ = run("verify", "o/result.json", "--checkpoint", "other.pt", "--normalisation", "none")
    assert code == 1
    assert "FAILED  checkpoint" in out
    assert "Already recorded: o/result.verification.json. Use --out FILE" in out
    assert evaluated.with_name("result.verification.json").read_bytes() == record
    refused(run("verify", "."), "is a folder")

    code, out, _ = run(*words, "--audit", "2", "--audit-seed", "1", "--out", "elsewhere.json")
    assert code in (0, 1)
    assert re.search(
        r"Audit: \d+ robust examples?, in whole units, .* At most [\d,]+ forward and .* about ", out
    )
    assert re.search(
        r"audit: \d+ of \d+ robust examples attacked again by fgsm, audit seed 1\. Own seed: ", out
    )
    assert re.search(r"Cost: .*; audit: [\d,]+ forward and [\d,]+ backward passes, [\d.]+ s", out)

    evaluated.write_text(evaluated.read_text().replace('"seed": 0', '"seed": 3', 1))
    code, out, _ = run(*words)
    assert code == 1
    assert "FAILED  settings: its settings" in out
    assert "NOT verified." in out
    assert not verification_record.read(evaluated.with_name("result.verification.json")).passed

    (evaluated.parent / "evidence.safetensors").write_bytes(b"short")
    refused(run(*words), "evidence.safetensors is not a safetensors file")
    refused(run(*words, "--audit", "-1"), "--audit and --audit-seed must be 0 or more")
    refused(
        run(*words, "--audit-suite", "fgsm"), "--audit-suite chooses the columns of an audit: add --audit N"
    )
    refused(run(*words, "--audit-seed", "1"), "--audit-seed chooses the units of an audit: add --audit N")
    refused(run("verify", "cut.json", "--checkpoint", "net.pt"), "cut.json does not exist")
    refused(run("verify", "o", "--checkpoint", "net.pt"), "o is a folder. Name a file in it")
    (evaluated.parent / "evidence.safetensors").unlink()
    refused(run(*words), "There is no evidence beside o/result.json: give it with --evidence FILE")
    assert run("verify", "o/result.json")[0] == 2
    refused(
        run("verify", "o/result.json", "--checkpoint", "absent.pt", "--out", "no/v.json"), "write to no: "
    )


def test_verify_with_other_images_fails(run: Run, evaluated: Path) -> None:
    images = np.zeros((60, 8, 8), np.uint8)
    np.savez("x.npz", x=images, y=np.arange(60) % 10)
    words = ("verify", "o/result.json", "--checkpoint", "net.pt", "--data", "npz:x.npz")
    code, out, _ = run(*words)
    assert code == 1
    assert "FAILED  data: these are other images" in out
    assert "not reached: clean predictions" in out
