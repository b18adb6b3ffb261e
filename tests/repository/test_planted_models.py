"""The tables of planted and honest models in docs/flags.md are generated from measured figures."""

from __future__ import annotations

import json
import re

import pytest
import torch

from robust_eval.core.threat import parse_threat
from robust_eval.results import flags
from robust_eval.verification.selftest.base_networks import ModifiedNetwork
from robust_eval.verification.selftest.case import STOPPED
from robust_eval.verification.selftest.cases_plants import plants
from robust_eval.verification.selftest.plain_network import THREAT, digit_images, plain_network
from robust_eval.verification.selftest.plant import Plant
from scripts.tables import model_figures, planted_models, small_networks
from scripts.tables.adaptive_attacks import AdaptiveAttack

FIGURES = planted_models.FIGURES
FOUND = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
measured = pytest.mark.skipif(
    not FOUND, reason="Not measured: run python -m scripts.tables.planted_models --plants --honest."
)


@measured
def test_the_page_has_the_generated_tables() -> None:
    text = planted_models.PAGE.read_text(encoding="utf-8")
    assert planted_models.page(text) == text, "run python -m scripts.tables.planted_models"
    for name, table in planted_models.tables():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in text


@measured
def test_every_planted_model_was_measured() -> None:
    assert list(FOUND["plants"]) == [plant.name for plant in plants()]


@measured
def test_every_planted_model_raised_its_flags() -> None:
    for plant in plants():
        found = FOUND["plants"][plant.name]
        raised = {STOPPED} if "stopped" in found else set(found["flags"])
        assert plant.expected <= raised, plant.name


@measured
def test_no_honest_model_raised_a_flag() -> None:
    assert len(FOUND["honest"]) >= 2 * len(small_networks.NETWORKS)
    assert not {name: one["flags"] for name, one in FOUND["honest"].items() if one["flags"]}


def test_a_wrong_accuracy_without_a_flag_is_marked() -> None:
    wrong = {
        "group": "defense",
        "source": "-",
        "n": 100,
        "clean": 90,
        "robust": 60,
        "adaptive": 10,
        "flags": {},
    }
    right = {**wrong, "robust": 14}
    flagged = {**wrong, "flags": {"no-gradients": flags.BLOCKS, "discontinuous": flags.WARNS}}
    stopped = {**right, "stopped": "a reason"}
    table = planted_models.plant_table(
        {"wrong": wrong, "right": right, "flagged": flagged, "stopped": stopped}, "defense"
    )
    assert "| wrong | - | not detected | 90 | 60 | 10 |" in table
    assert "| right | - | - | 90 | 14 | 10 |" in table
    assert "| flagged | - | **no-gradients**, discontinuous | 90 | 60 | 10 |" in table
    assert "| stopped | - | stops with a message | - | - | 10 |" in table
    text = planted_models.summary({"wrong": wrong, "right": right, "flagged": flagged, "stopped": stopped})
    assert re.search(r"Of 4 planted models 2 are .+ of 1 others .+ Not detected: wrong\.", text)


@pytest.mark.slow
def test_the_adaptive_attack_breaks_the_undefended_network_and_judges_randomness_strictly() -> None:
    x, y = (tensor[:20] for tensor in digit_images())
    network = plain_network()
    attack = AdaptiveAttack(ModifiedNetwork, network, x, y, THREAT.radius)
    assert not attack.is_random()
    assert not attack.robust().any()
    tiny = AdaptiveAttack(ModifiedNetwork, network, x, y, 1e-6)
    assert torch.equal(tiny.robust(), network(x).argmax(1) == y)
    coin = AdaptiveAttack(_Coin, network, x, y, 1e-6)
    assert coin.is_random()
    assert not coin.robust().any(), "Half of the answers are wrong, so that no example survives ten draws."


class _Coin(ModifiedNetwork):
    def change_output(self, z: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand(len(z), 1) < 0.5, z, -z)


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("BatchNorm and ReLU", 1), pytest.param("small ViT", small_networks.EPOCHS, marks=pytest.mark.slow)],
)
def test_small_networks_are_trained(name: str, epochs: int) -> None:
    network = small_networks.train(name, parse_threat("Linf", "0.1"), epochs=epochs)
    x, y = digit_images()
    assert (network(x).argmax(1) == y).float().mean() > 0.5
    assert not network.training


@measured
@pytest.mark.slow
@pytest.mark.parametrize("plant", plants(), ids=lambda plant: plant.name)
def test_a_planted_model_raises_its_flags_and_the_adaptive_attack_agrees(plant: Plant) -> None:
    found, recorded = model_figures.measure_plant(plant), FOUND["plants"][plant.name]
    raised = {STOPPED} if "stopped" in found else set(found["flags"])
    assert plant.expected <= raised
    assert abs(found["adaptive"] - recorded["adaptive"]) <= 5
    assert not planted_models.is_missed(found)
