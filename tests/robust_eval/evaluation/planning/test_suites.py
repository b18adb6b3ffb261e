"""Suites and columns: values of ``--suite`` that are accepted, and messages for all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from robust_eval.core import discovery
from robust_eval.core.errors import UserError
from robust_eval.core.types import Suite
from robust_eval.evaluation.planning import suites


def ids(suite: Suite) -> list[str]:
    return [column.id for column in suite.columns]


def attack_ids(name: str) -> list[str]:
    return [spec.id for spec in suites.column(name).attacks]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("quick", ["clean", "fgsm", "pgd-20"]),
        ("fast", ["clean", "apgd-ce-t"]),
        ("full", ["clean", "fgsm", "pgd-20", "pgd-100", "cw-inf", "spsa", "aa"]),
        ("union", ["clean", "union"]),
        ("aa", ["clean", "aa"]),
        ("clean", ["clean"]),
        (" pgd-20 , aa,pgd-20,", ["clean", "pgd-20", "aa"]),
        ("aa,clean", ["clean", "aa"]),
        ("quick,aa", ["clean", "fgsm", "pgd-20", "aa"]),
        ("fgsm,union", ["clean", "fgsm", "union"]),
    ],
)
def test_names_and_lists_of_names(text: str, columns: list[str]) -> None:
    suite = suites.load(text)
    assert ids(suite) == columns
    assert suite.name == (text if text in discovery.config_ids("suites") else ",".join(columns))


def test_every_bundled_column_and_suite_loads() -> None:
    for name in discovery.config_ids("suites"):
        assert suites.load(name).version >= 1
    for name in discovery.config_ids("columns"):
        assert suites.column(name).title


def test_autoattack_has_four_phases_and_the_fast_column_has_another_name() -> None:
    assert attack_ids("aa") == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert suites.column("apgd-ce-t").attacks == suites.column("aa").attacks[:2]
    assert "auto" not in suites.column("apgd-ce-t").title.lower()


def test_the_union_contains_every_attack_of_the_full_suite_cheapest_first() -> None:
    from robust_eval import attacks

    union = suites.column("union").attacks
    full = [spec for column in suites.load("full").columns for spec in column.attacks]
    assert len(union) == len(full)
    assert all(spec in union for spec in full)
    prices = [attacks.cost(spec, 10) for spec in union]
    passes = [price.forwards + price.backwards for price in prices]
    assert passes == sorted(passes)


def test_the_full_suite_has_the_columns_of_the_papers_table() -> None:
    titles = [column.title for column in suites.load("full").columns]
    assert titles == ["Clean", "FGSM", "PGD-20", "PGD-100", "CW-inf", "SPSA", "AutoAttack"]
    (spsa,) = suites.column("spsa").attacks
    assert spsa.params == {"iterations": 100, "samples": 256, "delta": "0.001", "learning_rate": "0.01"}
    (cw,) = suites.column("cw-inf").attacks
    assert (cw.family, cw.params["steps"]) == ("cw-linf", 100)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_suite_file_with_a_column_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        "pgd-50x3.toml",
        'title = "PGD-50, 3 starts"\n[[attacks]]\nfamily = "pgd"\nsteps = 50\nrestarts = 3\n'
        '[[attacks]]\ncolumn = "fgsm"\n',
    )
    path = write(tmp_path, "mine.toml", 'version = 4\ncolumns = ["pgd-50x3.toml", "pgd-20"]\n')
    suite = suites.load(path)
    assert (suite.name, suite.version, ids(suite)) == ("mine", 4, ["clean", "pgd-50x3", "pgd-20"])
    own = suite.columns[1]
    assert [spec.id for spec in own.attacks] == ["pgd-50x3.r1", "pgd-50x3.r2", "pgd-50x3.r3", "fgsm"]
    assert own.attacks[0].params == own.attacks[2].params
    assert suites.load(f"aa,{tmp_path / 'pgd-50x3.toml'}").columns[2] == own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ful", "Unknown suite or column 'ful'. Did you mean full?"),
        ("aa,pdg-20", "Unknown suite or column 'pdg-20'. Did you mean pgd-20?"),
        (" , ", "The suite is empty. Name a suite such as full, or columns such as pgd-20,aa."),
        ("nowhere.toml", "nowhere.toml does not exist. Check the path."),
    ],
)
def test_unknown_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        suites.load(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns = [", "is not valid TOML"),
        ("version = 1", 'columns must be a list of column names, such as ["clean", "pgd-20"].'),
        ("columns = [3]", "columns must be a list of column names"),
        ('columns = ["aa"]\nversion = "2"', "version must be a whole number from 1, got '2'."),
        ('columns = ["aa"]\nverison = 2', "Unknown key 'verison'. Did you mean version?"),
        ('columns = ["pdg-20"]', "Unknown column 'pdg-20'. Did you mean pgd-20?"),
    ],
)
def test_an_invalid_suite_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        suites.load(write(tmp_path, "mine.toml", text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('title = "T"', "a column needs at least one [[attacks]] table."),
        ("attacks = 3", "attacks must be written as [[attacks]] tables."),
        ('titel = "T"', "Unknown key 'titel'. Did you mean title?"),
        ('title = 3\n[[attacks]]\nfamily = "fgsm"', "title must be text in quotes, got 3."),
        ("[[attacks]]\nsteps = 3", "every [[attacks]] table needs a family (autoattack, cw-linf,"),
        ('[[attacks]]\nfamily = "pdg"', "Unknown attack family 'pdg'. Did you mean pgd?"),
        (
            '[[attacks]]\nfamily = "pgd"\nstep = 3',
            "own.toml: Unknown pgd parameter 'step'. Did you mean steps?",
        ),
        (
            '[[attacks]]\nfamily = "pgd"\nrestarts = 0',
            "restarts must be a whole number from 1 to 1000, got 0.",
        ),
        (
            '[[attacks]]\ncolumn = "aa"\nsteps = 3',
            "an attack taken from another column: Unknown key 'steps'.",
        ),
        ('[[attacks]]\ncolumn = "own.toml"', "column own contains itself."),
        (2 * '[[attacks]]\nfamily = "pgd"\n', "two attacks are called own. Give each its own id."),
        (
            2000 * '[[attacks]]\nfamily = "pgd"\n',
            "a column has at most 1000 attacks, restarts included.",
        ),
        (
            2000 * '[[attacks]]\nfamily = "pgd"\nrestarts = 999\n',
            "own.toml is larger than 64 KiB",
        ),
        (
            1000 * '[[attacks]]\nfamily = "pgd"\nrestarts = 999\n',
            "a column has at most 1000 attacks, restarts included.",
        ),
    ],
)
def test_an_invalid_column_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        suites.column(write(tmp_path, "own.toml", text))
    assert message in str(caught.value)


def test_a_long_chain_of_columns_is_refused(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, f"c{number}.toml", f'[[attacks]]\ncolumn = "c{number + 1}.toml"\n')
    with pytest.raises(UserError, match="columns are nested more than 16 levels deep"):
        suites.column(str(tmp_path / "c0.toml"))


def test_two_columns_with_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "pgd-20.toml", '[[attacks]]\nfamily = "pgd"\nsteps = 21\n')
    with pytest.raises(UserError, match=r"Two different columns are called pgd-20\. Rename the file"):
        suites.load(f"pgd-20,{path}")


def test_bundled_files_are_shown_without_an_absolute_path() -> None:
    path = discovery.config_dir("columns") / "aa.toml"
    assert suites._shown(path) == "configs/columns/aa.toml"


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys; from robust_eval.evaluation.planning import suites; suites.load('full'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
