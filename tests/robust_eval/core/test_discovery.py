from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robust_eval import attacks, data
from robust_eval.core import discovery
from robust_eval.core.errors import UserError, unknown


def test_an_unknown_name_gets_a_suggestion() -> None:
    assert (
        str(unknown("attack", "pdg-20", ["pgd-20", "fgsm"]))
        == "Unknown attack 'pdg-20'. Did you mean pgd-20?"
    )
    assert str(unknown("attack", "zzz", ["b", "a"])) == "Unknown attack 'zzz'. Known: a, b."
    assert str(unknown("model", "rise2020", ["Rice2020", "B"])).endswith("Did you mean Rice2020?")


def test_only_the_nearest_of_many_known_names_are_listed() -> None:
    many = [f"Model{n}Of{n}" for n in range(60)]
    text = str(unknown("model", "Of7", many))
    assert text.startswith("Unknown model 'Of7'. 60 are known; the nearest are Model7Of7, ")
    assert text.count(",") == 4


def test_an_unknown_configuration_gets_a_suggestion() -> None:
    assert "full" in discovery.config_ids("suites")
    with pytest.raises(UserError, match="Unknown suite 'ful'. Did you mean full"):
        discovery.config("suites", "ful")


def test_private_modules_are_not_ids() -> None:
    assert all(not name.startswith("-") for name in discovery.module_ids("robust_eval.attacks"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make a package whose entry points are given by group, as pip installs it."""
    caches = (discovery.entry_points, discovery.module_ids, discovery.config_ids)

    def install(files: dict[str, str], **groups: str) -> None:
        folder, info = tmp_path / "pack_of_test", tmp_path / "pack_of_test-1.0.dist-info"
        folder.mkdir()
        info.mkdir()
        for name, text in {"__init__.py": "", **files}.items():
            (folder / name).write_text(text)
        (info / "METADATA").write_text("Name: pack-of-test\nVersion: 1.0\n")
        lines = [f"[{group.replace('__', '.')}]\n{entries}\n" for group, entries in groups.items()]
        (info / "entry_points.txt").write_text("".join(lines))
        monkeypatch.syspath_prepend(str(tmp_path))
        for cached in caches:
            cached.cache_clear()

    yield install
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.startswith("pack_of_test")]:
        del sys.modules[name]
    for cached in caches:
        cached.cache_clear()


def test_ids_of_this_package_cannot_be_replaced(installed: Callable[..., None]) -> None:
    installed(
        {"mine.py": "raise RuntimeError('was imported')", "at.toml": "x = 1"},
        robust_eval__attacks="fgsm = pack_of_test.mine",
        robust_eval__datasets="digits = pack_of_test.mine",
        defenses__recipes="at = pack_of_test",
    )
    assert attacks.family("fgsm").LIBRARY == "adversarial-robustness-toolbox"
    assert attacks.library("fgsm").startswith("adversarial-robustness-toolbox ")
    assert data.load("digits").name == "digits"
    assert "x" not in discovery.config("recipes", "at")
    assert attacks.families().count("fgsm") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "raise RuntimeError('broken')",
            "cannot be imported: RuntimeError: broken. Correct it, or uninstall",
        ),
        ("VERSION = 1", "is not an attack: it lacks CITATION, Params, cost, search. See docs/plugins.md."),
    ],
)
def test_a_package_with_a_mistake_is_named(text: str, message: str, installed: Callable[..., None]) -> None:
    installed({"mine.py": text}, robust_eval__attacks="mine = pack_of_test.mine")
    assert "mine" in attacks.families()
    start = "mine of pack-of-test (entry point robust_eval.attacks) "
    with pytest.raises(UserError, match=re.escape(start + message)):
        attacks.family("mine")


def test_entry_points_name_modules_and_packages(installed: Callable[..., None]) -> None:
    installed(
        {"mine.py": "value = 3"},
        robust_eval__attacks="mine = pack_of_test.mine:value\ngone = pack_of_test.gone",
        defenses__recipes="own = pack_of_nothing\nother = pack_of_test",
    )
    with pytest.raises(
        UserError, match=r"mine of pack-of-test .* is not a module\. Let the entry point name"
    ):
        attacks.family("mine")
    with pytest.raises(UserError, match=r"gone of pack-of-test .* cannot be imported: ModuleNotFoundError"):
        attacks.family("gone")
    with pytest.raises(
        UserError, match=r"own of pack-of-test \(entry point defenses\.recipes\) names no package"
    ):
        discovery.config("recipes", "own")
    with pytest.raises(UserError, match=r"other\.toml does not exist"):
        discovery.config("recipes", "other")
