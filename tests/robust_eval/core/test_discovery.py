from __future__ import annotations

import pytest

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
