"""Settings by name: what is refused and with which remedy, and that plain data and dataclass are the same thing."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from gankd.config import check_ranges, from_dict, override, override_from_file, require, suggest, to_dict
from gankd.errors import ConfigError
from gankd.recipes import digits


@dataclass(frozen=True, kw_only=True)
class Inner:
    where: ClassVar[str] = "inner."

    steps: Annotated[int, Field(ge=1, le=10**9)] = 10
    lr: Annotated[float, Field(gt=0, le=10)] = 0.1
    penalty: Literal["none", "r1"] = "none"
    kinds: tuple[Literal["flip", "shift"], ...] = ()
    sigma: float | None = None
    root: str | None = "here"

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "digits"
    seed: int = 0
    inner: Inner = field(default_factory=Inner)


CHANGED = Outer(
    name="x", seed=3, inner=Inner(steps=7, lr=0.5, penalty="r1", kinds=("flip", "shift"), sigma=0.25, root=None)
)


def refusal(values: dict[str, Any], where: str = "settings") -> str:
    with pytest.raises(ConfigError) as error:
        from_dict(Outer, values, where)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_require() -> None:
    require(True, "never seen")
    with pytest.raises(ConfigError, match="the rule"):
        require(False, "the rule")


def test_suggest_names_the_closest_or_all() -> None:
    assert suggest("stpes", ["steps", "lr", "sigma"]) == "did you mean steps?"
    assert suggest("zzz", ["steps", "lr"]) == "known: lr, steps"


@pytest.mark.parametrize("config", [Outer(), CHANGED])
def test_plain_data_and_dataclass_are_the_same_thing(config: Outer) -> None:
    assert from_dict(Outer, to_dict(config)) == config
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config  # as config.json has it


def test_left_out_settings_keep_their_defaults() -> None:
    assert from_dict(Outer, {"inner": {"steps": 2}}) == Outer(inner=Inner(steps=2))


def test_refusals_say_where_what_and_how_to_mend_it() -> None:
    assert refusal({"sed": 1}, "run.toml") == "run.toml: no setting sed; did you mean seed?"
    assert refusal({"inner": {"stpes": 1}}) == "settings: no setting inner.stpes; did you mean steps?"
    assert refusal({"inner": 3}) == "settings: inner is a group of settings; write inner.NAME=VALUE"
    assert refusal({"inner": {"steps": 0}}) == "inner.steps must be at least 1, got 0"
    assert refusal({"inner": {"steps": 1.5}}) == "inner.steps must be a whole number, got 1.5"
    assert "got 'r3'" in refusal({"inner": {"penalty": "r3"}})


@dataclass(frozen=True, kw_only=True)
class Numbers:
    where: ClassVar[str] = "numbers."

    count: Annotated[int, Field(ge=1, le=10**9)] = 1
    few: Annotated[int, Field(ge=1, le=1000)] = 1
    any_whole: int = 0
    positive: Annotated[float, Field(gt=0)] = 1.0
    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    maybe: Annotated[float, Field(gt=0, le=1)] | None = None
    free: float | None = None
    several: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    flag: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("count", 0, "be at least 1, got 0"),
        ("count", 1e30, "be at most 1000000000, got 1e+30"),
        ("count", 10**400, None),
        ("count", 2.5, "be a whole number, got 2.5"),
        ("count", True, "be a whole number, got True"),
        ("count", "x", "be a whole number, got 'x'"),
        ("count", math.nan, "be at least 1, got nan"),
        ("count", math.inf, "be at most 1000000000, got inf"),
        ("few", 1001, "lie in 1..1000, got 1001"),
        ("any_whole", True, "be a whole number, got True"),
        ("any_whole", math.nan, "be finite, got nan"),
        ("positive", 0, "be positive, got 0"),
        ("positive", math.inf, "be finite, got inf"),
        ("share", 1.0, "lie in [0, 1), got 1.0"),
        ("share", math.nan, "lie in [0, 1), got nan"),
        ("share", False, "be a number, got False"),
        ("maybe", 0.0, "lie in (0, 1] or be none, got 0.0"),
        ("free", -math.inf, "be finite or be none, got -inf"),
        ("several", (0.5, 1.0), "lie in (0, 1), got 1.0"),
        ("several", (True,), "be a number, got True"),
    ],
)
def test_numbers_out_of_range_are_refused_alike_from_python_and_from_plain_data(
    name: str, value: Any, rule: str | None
) -> None:
    said = set()
    for make in (lambda: Numbers(**{name: value}), lambda: from_dict(Numbers, {name: value})):
        with pytest.raises(ConfigError) as error:
            make()
        said.add(str(error.value))
    assert len(said) == 1
    assert rule is None or said == {f"numbers.{name} must {rule}"}


def test_numbers_at_the_ends_of_their_ranges_are_accepted() -> None:
    inside: dict[str, Any] = {
        "count": 10**9,
        "few": 1000,
        "any_whole": -(2**62),
        "positive": 1e-300,
        "share": 0,
        "maybe": 1,
        "free": -1e9,
    }
    assert from_dict(Numbers, inside | {"several": [0.1, 0.9], "flag": True}) == Numbers(
        **inside, several=(0.1, 0.9), flag=True
    )
    assert from_dict(Numbers, {"count": 1e3}).count == 1000  # a whole number, however it is written
    assert Numbers(maybe=None, free=None) == Numbers()


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed=5", Outer(seed=5)),
        (" inner.steps = 500 ", Outer(inner=Inner(steps=500))),
        ("inner.lr=1e-3", Outer(inner=Inner(lr=0.001))),
        ('inner.kinds=["flip", "shift"]', Outer(inner=Inner(kinds=("flip", "shift")))),
        ("name=two words", Outer(name="two words")),
        ("name='7'", Outer(name="7")),
        ("inner.root=none", Outer(inner=Inner(root=None))),
        ("inner.root=None", Outer(inner=Inner(root=None))),
        ("inner.sigma=0.5", Outer(inner=Inner(sigma=0.5))),
    ],
)
def test_override(assignment: str, expected: Outer) -> None:
    assert override(Outer(), [assignment]) == expected


def test_none_is_no_value_or_a_choice_as_the_setting_wants() -> None:
    changed = override(CHANGED, ["inner.penalty=none", "inner.sigma=none"])
    assert changed.inner.penalty == "none"
    assert changed.inner.sigma is None


def test_later_assignments_win_and_the_original_stays() -> None:
    assert override(CHANGED, ["seed=1", "seed=2"]).seed == 2
    assert CHANGED.seed == 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "settings: expected NAME=VALUE, for example gan.steps=500; got 'seed'"),
        ("=3", "settings: expected NAME=VALUE, for example gan.steps=500; got '=3'"),
        ("inner.stpes=3", "settings: no setting inner.stpes; did you mean steps?"),
        ("iner.steps=3", "settings: no group of settings iner in iner.steps; did you mean inner?"),
        ("inner=3", "settings: inner is a group of settings; write inner.NAME=VALUE"),
        ("inner.steps=0", "inner.steps must be at least 1, got 0"),
    ],
)
def test_override_refuses(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(Outer(), [assignment])
    assert str(error.value) == message


def test_override_from_file_changes_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 9\n[inner]\nsteps = 4\nkinds = ["flip"]\n')
    changed = override_from_file(CHANGED, path)
    assert changed == Outer(
        name="x",
        seed=9,
        inner=Inner(steps=4, lr=0.5, penalty="r1", kinds=("flip",), sigma=0.25, root=None),
    )


@pytest.mark.parametrize("content", [b"seed = = 3", b"\xff\xfe\x00", b"inner = 3", b"[inner]\nstpes = 1"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="run.toml") as error:
        override_from_file(Outer(), path)
    assert "\n" not in str(error.value)


@pytest.mark.timeout(20)
def test_files_that_never_end_or_nest_too_deeply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="c.toml: not a readable TOML file: not a regular file but a pipe"):
        override_from_file(Outer(), path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="not a regular file but a device"):
        override_from_file(Outer(), path)
    path.unlink()
    path.write_text("x=" + "[" * 100_000)
    with pytest.raises(ConfigError, match="not a readable TOML file: maximum recursion depth"):
        override_from_file(Outer(), path)
    with pytest.raises(ConfigError, match="inner.steps"):
        override(Outer(), ["inner.steps=" + "[" * 100_000])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no settings file .*absent.toml"):
        override_from_file(Outer(), tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.45", (0.45,)), ("0.485,0.456,0.406", (0.485, 0.456, 0.406)), ("[0.4]", (0.4,)), ("none", None)],
)
def test_a_list_that_may_be_none_needs_no_brackets(text: str, value: Any) -> None:
    assert override(digits(), [f"teacher.mean={text}"]).teacher.mean == value
