"""Recipes: the values of the papers, the source of each, and the errors for wrong fields."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from defenses.recipes.choices import Choices
from defenses.recipes.recipe import DESCRIPTIVE_FIELDS, Recipe
from defenses.recipes.resolve import flatten, read_recipe, resolve
from robust_eval.core.discovery import config_ids
from robust_eval.core.errors import UserError

IDS = config_ids("recipes")
TABLE_2 = ("at", "trades", "mart", "pretraining", "rst")


def recipe(name: str, *sets: str, **choices: Any) -> Recipe:
    return resolve(name, Choices(sets=sets, **choices)).recipe


def test_the_methods_of_table_2_and_its_comparisons_exist() -> None:
    wanted = {*TABLE_2, *(f"{name}-awp" for name in TABLE_2)}
    wanted |= {"at-rwp", "at-l1", "at-l2", "at-cutout", "at-mixup", "at-es", "at-pas", "natural"}
    wanted |= {"fgsm-rs", "fgsm-rs-awp", "n-fgsm", "n-fgsm-awp"}
    assert wanted <= set(IDS)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize(("data", "norm"), [("cifar10", None), ("svhn", "L2"), ("mnist", None)])
def test_every_field_of_every_recipe_has_a_source(name: str, data: str, norm: str | None) -> None:
    found = resolve(name, Choices(data=data, norm=norm))
    fields = [field for field, _ in flatten(found.recipe.model_dump()) if field not in DESCRIPTIVE_FIELDS]
    words = (":", "project", "command line")
    missing = [field for field in fields if not any(word in found.sources[field] for word in words)]
    assert not missing


@pytest.mark.parametrize("name", IDS)
def test_a_source_belongs_to_a_field_of_its_file(name: str) -> None:
    own = read_recipe(name)
    for table in (own, *own.get("variants", {}).values()):
        fields = [field for field, _ in flatten(table) if not field.startswith(("variants.", "sources."))]
        for key in table.get("sources", {}):
            assert any(field == key or field.startswith(f"{key}.") for field in fields), f"{name}: {key}"


@pytest.mark.parametrize("name", TABLE_2)
def test_a_pair_differs_only_in_the_perturbation(name: str) -> None:
    plain, awp = (dict(flatten(recipe(n).model_dump())) for n in (name, f"{name}-awp"))
    differing = {field for field in plain if plain[field] != awp[field]} - set(DESCRIPTIVE_FIELDS)
    released = {"objective.passes"} if name == "trades" else set()  # the code of two papers
    assert differing <= {"perturbation.kind", "perturbation.gamma", "perturbation.warmup"} | released


EXPECTED = {
    # architecture, epochs, batch, lr, gamma, warm-up, beta, normalisation, padding, BN in the attack
    "at": ("wrn-34-10", 200, 128, 0.1, 0.0, 0, None, "dataset", "reflect", "train"),
    "at-awp": ("wrn-34-10", 200, 128, 0.1, 0.01, 0, None, "dataset", "reflect", "train"),
    "trades": ("wrn-34-10", 200, 128, 0.1, 0.0, 0, 6.0, "none", "zero", "eval"),
    "trades-awp": ("wrn-34-10", 200, 128, 0.1, 0.005, 9, 6.0, "none", "zero", "eval"),
    "mart-awp": ("wrn-34-10", 200, 128, 0.1, 0.005, 9, 6.0, "none", "zero", "eval"),
    "pretraining-awp": ("wrn-28-10", 50, 128, 0.001, 0.005, 0, None, "2x-1", "zero", "train"),
    "rst-awp": ("wrn-28-10", 200, 256, 0.1, 0.005, 9, 6.0, "none", "zero", "eval"),
    "at-rwp": ("preact-resnet-18", 200, 128, 0.1, 0.01, 0, None, "dataset", "reflect", "train"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_defaults_are_the_papers_on_cifar_10(name: str) -> None:
    r = recipe(name)
    found = (
        r.architecture,
        r.training.epochs,
        r.training.batch_size,
        r.optimiser.lr,
        r.perturbation.gamma,
        round(r.perturbation.warmup * r.training.epochs),
        getattr(r.objective, "beta", None),
        r.normalisation,
        r.augment.padding,
        r.inner.batch_norm,
    )
    assert found == EXPECTED[name]
    assert (r.threat.norm, r.threat.eps, r.inner.steps) == ("Linf", Fraction(8, 255), 10)
    assert r.inner.step_size * r.threat.eps == Fraction(2, 255)
    assert (r.optimiser.momentum, r.optimiser.weight_decay) == (0.9, 5e-4)


def test_variants_for_data_sets_and_norms() -> None:
    svhn = recipe("at-awp", data="svhn")
    assert (svhn.optimiser.lr, svhn.augment.flip, svhn.normalisation) == (0.01, False, "2x-1")
    assert svhn.inner.step_size * svhn.threat.eps == Fraction(1, 255)
    assert svhn.selection.step_size == svhn.inner.step_size, "PGD-20 of 2/255 is another test on SVHN"
    assert svhn.perturbation.warmup == Fraction(5, 200)
    l2 = recipe("trades-awp", norm="l2")
    assert (l2.threat.eps, l2.inner.step_size * l2.threat.eps) == (Fraction(128, 255), Fraction(128, 1275))
    assert (recipe("at", data="cifar100").augment.rotation, recipe("at").augment.rotation) == (15.0, 0.0)
    mnist = recipe("trades", data="mnist")
    assert (mnist.architecture, mnist.threat.eps, mnist.inner.steps) == ("small-cnn", Fraction(3, 10), 40)
    assert mnist.inner.step_size * mnist.threat.eps == Fraction(1, 100)
    assert recipe("rst", data="digits").architecture == "digits-cnn"
    assert recipe("fgsm-rs", data="mnist").inner.steps == 1


def test_steps_scale_with_epsilon_and_the_command_line_overrides_the_file() -> None:
    found = resolve("at", Choices(eps="4/255", epochs=3, batch_size=8, arch="lenet", sets=("inner.steps=7",)))
    r = found.recipe
    assert r.inner.step_size * r.threat.eps == Fraction(1, 255)
    assert (r.training.epochs, r.training.batch_size, r.architecture, r.inner.steps) == (3, 8, "lenet", 7)
    assert found.sources["inner.steps"] == "command line"
    assert found.sources["threat.eps"] == "command line"


def test_values_of_set_are_converted_to_the_type_of_the_field() -> None:
    r = recipe(
        "at",
        "augment.flip=false",
        "schedule.milestones=[0.3, 0.6]",
        "inner.step_size=1/3",
        "inner.start=none",
    )
    assert (r.augment.flip, r.inner.step_size, r.inner.start) == (False, Fraction(1, 3), "none")
    assert r.schedule.milestones == (Fraction(3, 10), Fraction(3, 5))


def test_another_objective_or_architecture_drops_the_old_arguments() -> None:
    assert recipe("trades", "objective.name=cross-entropy").objective.model_dump() == {
        "name": "cross-entropy"
    }
    assert recipe("at-pas").architecture_arguments == {"width": 32}
    assert recipe("at-pas", arch="wrn-28-10").architecture_arguments == {}


def test_a_recipe_file_of_the_user(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('extends = "at-awp"\ntitle = "Mine"\n[perturbation]\ngamma = 0.02\n')
    r = recipe(str(own))
    assert (r.name, r.title, r.perturbation.gamma, r.inner.steps) == ("mine", "Mine", 0.02, 10)


BAD = [
    ("trades-apw", (), {}, "Unknown recipe 'trades-apw'. Did you mean trades-awp?"),
    ("at", ("inner.stps=7",), {}, "Unknown field 'inner.stps'. Did you mean inner.steps?"),
    ("at", ("inner.steps=7.5",), {}, "inner.steps = 7.5: input should be a valid integer."),
    ("at", ("inner.steps=many",), {}, "inner.steps = many: input should be a valid integer."),
    ("at", ("optimiser.lr=0",), {}, "optimiser.lr = 0: input should be greater than 0."),
    ("at", ("augment.flip=yes",), {}, "augment.flip = yes: input should be a valid boolean."),
    ("at", ("inner.step_size=1/0",), {}, "divides by zero"),
    ("at", ("perturbation.kind=awpp",), {}, "should be 'none', 'awp' or 'rwp'"),
    ("at", ("inner.steps",), {}, "--set inner.steps is not FIELD=VALUE"),
    ("at", ("objective.name=trads",), {}, "Unknown objective 'trads'. Did you mean trades?"),
    ("at", ("objective.name=trades",), {}, "gives no value for objective.beta"),
    ("at-awp", ("augment.mixup=1.4",), {}, "augment.mixup cannot be combined with weight perturbation"),
    ("mart", ("augment.mixup=1.4",), {}, "augment.mixup cannot be combined with mart"),
    ("trades", ("inner.steps=0",), {}, "inner.steps=0 makes no adversarial images for trades"),
    (
        "at-awp",
        ("inner.steps=0",),
        {},
        "inner.steps=0 trains on clean images, which is no longer at-awp: use",
    ),
    ("at-rwp", ("perturbation.steps=2",), {}, "a random perturbation is drawn once"),
    ("at", ("perturbation.regulariser=square",), {}, "perturbation.regulariser needs perturbation.kind=awp"),
    (
        "at-awp",
        ("perturbation.regulariser=square",),
        {},
        "perturbation.strength=0 disables perturbation.regulariser",
    ),
    ("at-awp", ("perturbation.warmup=1",), {}, "perturbation.warmup=1 never perturbs"),
    ("at", ("schedule.periods=[0.5, 0.5]",), {}, "schedule.periods must be increasing"),
    ("at", ("optimiser.momentum=0", "optimiser.nesterov=true"), {}, "optimiser.nesterov needs a momentum"),
    ("at-pas", (), {"epochs": 3}, "training.epochs = 3 is too short for 3 periods"),
    ("at", ("schedule.kind=cyclic", "schedule.peak=0"), {}, "schedule.peak must be between 0 and 1"),
    ("at", ("inner.step_size=0",), {}, "inner.step_size=0 does not move the attack from its start"),
    ("at", ("selection.step_size=0",), {}, "selection.step_size=0 does not move the measuring attack"),
    (
        "at",
        ("schedule.milestones=[0.75, 0.5]",),
        {},
        "schedule.milestones must be increasing and between 0 and 1",
    ),
    ("at", ("schedule.milestones=0.5",), {}, "expected a list such as [0.5, 0.75]"),
    (
        "at",
        ("optimiser.lr=1e12",),
        {},
        "input should be less than or equal to 1000",
    ),
    ("at", (), {"eps": "8"}, "did you mean 8/255?"),
    ("at", (), {"eps": "0"}, "threat.eps must be above 0"),
    ("at", ("threat.eps=8/255",), {"eps": "0.2"}, "threat.eps is 0.2 by its own option and 8/255 by"),
    ("at", (), {"norm": "L3"}, "Unknown norm 'L3'"),
    ("at", (), {"epochs": 0}, "training.epochs = 0"),
    ("at", (), {"epochs": 10**400}, "input should be at most 1,000,000,000."),
    ("at-pas", (), {"epochs": 10**10}, "input should be at most 1,000,000,000."),
    ("at", ("inner.steps=10000000000",), {}, "input should be at most 1,000,000,000."),
    ("nowhere.toml", (), {}, "nowhere.toml does not exist"),
]


@pytest.mark.parametrize(("name", "sets", "choices", "sentence"), BAD, ids=[case[3][:40] for case in BAD])
def test_wrong_input_gives_an_error_of_one_line(
    name: str, sets: tuple[str, ...], choices: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        recipe(name, *sets, **choices)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_extends_is_relative_to_the_file_not_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "base.toml").write_text('extends = "at-awp"\n[perturbation]\ngamma = 0.02\n')
    (tmp_path / "own" / "mine.toml").write_text('extends = "base.toml"\ntitle = "Mine"\n')
    monkeypatch.chdir(tmp_path)
    assert resolve("own/mine.toml", Choices()).recipe.perturbation.gamma == 0.02
    (tmp_path / "own" / "base.toml").write_text("extends = 3\n")
    with pytest.raises(UserError, match="extends = 3 is not a recipe's name"):
        resolve("own/mine.toml", Choices())
    (tmp_path / "own" / "base.toml").write_text('extends = "../own/mine.toml"\n')
    with pytest.raises(UserError, match="extends itself"):
        resolve("own/mine.toml", Choices())


def test_a_recipe_that_extends_itself_is_rejected(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f'extends = "{second}"\n')
    second.write_text(f'extends = "{first}"\n')
    with pytest.raises(UserError, match="extends itself"):
        recipe(str(first))


TABLES = (
    "objective",
    "inner",
    "perturbation",
    "optimiser",
    "training",
    "selection",
    "threat",
    "sources",
    "variants",
    "architectures",
    "architecture_arguments",
)


@pytest.mark.parametrize("value", ["3", "true", '"text"', "[]", "[[1]]"])
@pytest.mark.parametrize("table", TABLES)
def test_a_section_that_is_not_a_table_is_refused(table: str, value: str, tmp_path: Path) -> None:
    """In the file itself and in a variant."""
    file = tmp_path / "mine.toml"
    file.write_text(f'extends = "at-awp"\n{table} = {value}\n')
    with pytest.raises(UserError, match=rf"mine\.toml: {table} must be a table: write \[{table}\]"):
        resolve(str(file), Choices(data="digits"))
    if table != "variants":
        file.write_text(f'extends = "at-awp"\n[variants.digits]\n{table} = {value}\n')
        with pytest.raises(UserError, match=rf"{table} must be a table"):
            resolve(str(file), Choices(data="digits"))


@pytest.mark.parametrize(
    "value", ["{ }", "{ unknown = 1 }", "{ steps = { a = 1 } }", "{ lr = [[]] }", "{ name = [] }"]
)
@pytest.mark.parametrize("table", TABLES)
def test_a_section_with_odd_values_is_read_or_refused_in_one_line(
    table: str, value: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    for head in ("", "[variants.digits]\n"):
        file.write_text(f'extends = "at-awp"\n{head}{table} = {value}\n')
        message = ""
        try:
            resolve(str(file), Choices(data="digits"))
        except UserError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1
