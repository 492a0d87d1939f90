"""Settings that a search varies: what a user may name, and the arm that comes of it."""

from dataclasses import replace
from typing import Any

import pytest

from gankd.bench.space import Choices, Interval, default_space, space_for, space_of, variant
from gankd.config import override
from gankd.errors import ConfigError
from gankd.recipes import RECIPES
from gankd.recipes.arms import arm_named
from gankd.tasks import Classification, Regression

RECIPE = RECIPES["digits"]()


class Fixed:
    """A trial that takes the upper end of everything."""

    def suggest_categorical(self, name: str, values: tuple[str, ...]) -> str:
        return values[-1]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return high

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        return high


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("student.lr=0.001..0.02", Interval(0.001, 0.02)),
        ("student.fake_choices=1..4", Interval(1, 4, whole=True)),
        ("select.rho=0.7, 0.9", Choices(("0.7", "0.9"))),
        ("student.loss=KD(T=2)|0.5*Label + CRD", Choices(("KD(T=2)", "0.5*Label + CRD"))),
        ("student.augment=none|shift,flip", Choices(("none", "shift,flip"))),
    ],
)
def test_values_are_read(text: str, values: Any) -> None:
    assert space_of([text], RECIPE) == {text.partition("=")[0]: values}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("student.lr", "expected NAME=LOW..HIGH"),
        ("student.lr=", "expected NAME=LOW..HIGH"),
        ("student.lr=2..1", "expected NAME=LOW..HIGH"),
        ("student.lr=a..b", "expected NAME=LOW..HIGH"),
        ("student.lr=0.1,,1", "expected NAME=LOW..HIGH"),
        ("student.lr=0.1..20", "student.lr must lie in (0, 10]"),
        ("student.rate=0.1..1", "no setting student.rate"),
        ("student.mix=none,blend", "student.mix"),
        ("student.updates=10,20", "share teacher, generator, pool and updates"),
        ("gan.steps=10..20", "share teacher, generator, pool and updates"),
        ("student.augment=teacher|shake", "shake"),
    ],
)
def test_what_cannot_be_varied_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of([text], RECIPE)
    assert words in str(caught.value)


def test_scales() -> None:
    assert Interval(0.001, 0.01).log
    assert not Interval(0.001, 0.009).log
    assert not Interval(0, 1).log
    assert Interval(0.1, 0.123456).suggested(Fixed(), "x") == "0.123"  # three digits, as tables show it
    assert Interval(0.1, 0.1289).suggested(Fixed(), "x") == "0.1289"  # rounded up it would be out of range
    assert Interval(1, 40, whole=True).suggested(Fixed(), "x") == "40"


@pytest.mark.parametrize("name", ["digits", "rotated-digits"])
@pytest.mark.parametrize("arm", ["real_matched", "kd_matched", "adjusted_kd"])
def test_all_default_values_fit(name: str, arm: str) -> None:
    recipe = RECIPES[name]()
    task = Classification(num_classes=10) if name == "digits" else Regression(low=0.0, high=90.0)
    own = arm_named(recipe, arm)
    space = space_for(own, default_space(recipe, task))
    assert (len(space) > 8) == (arm == "adjusted_kd")
    assert ("student.loss" in space) == (arm != "real_matched")
    for setting, values in space.items():
        ends = values.values if isinstance(values, Choices) else (f"{values.low:g}", f"{values.high:g}")
        for value in ends:
            made = variant(own, "x", {setting: value}).recipe(recipe)
            assert made.student.updates == recipe.student.updates


def test_without_mixing_where_students_cannot_mix() -> None:
    recipe = override(RECIPE, ["student.kd_on=fake"])
    space = default_space(recipe, Classification(num_classes=10))
    assert not {"student.mix", "student.fake_until"} & set(space)


def test_an_arm_with_other_settings() -> None:
    arm = replace(arm_named(RECIPE, "adjusted_kd"), settings=("student.lr=0.5", "select.rho=0.5"))
    values = {"student.lr": "0.01", "student.loss": "KD(T=2)", "student.augment": "none", "student.mix": "cutmix"}
    made = variant(arm, "x", values)
    assert (made.loss, made.augment) == ("KD(T=2)", ())
    assert made.settings == ("select.rho=0.5", "student.lr=0.01", "student.mix=cutmix")
    assert variant(arm, "x", {}) == replace(arm, name="x", title="x")
