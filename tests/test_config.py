"""Settings by name: what is refused and with which remedy, and that plain data and dataclass are the same thing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from gankd.config import from_dict, override, override_from_file, require, suggest, to_dict
from gankd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    steps: int = 10
    lr: float = 0.1
    penalty: Literal["none", "r1"] = "none"
    kinds: tuple[Literal["flip", "shift"], ...] = ()
    sigma: float | None = None
    root: str | None = "here"

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"inner.steps must be at least 1, got {self.steps}")


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
    wrong_type = refusal({"inner": {"steps": 1.5}})
    assert wrong_type.startswith("settings: inner.steps: ")
    assert wrong_type.endswith("got 1.5")
    assert "got 'r3'" in refusal({"inner": {"penalty": "r3"}})


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
        ("seed", "--set takes NAME=VALUE, for example gan.steps=500; got 'seed'"),
        ("=3", "--set takes NAME=VALUE, for example gan.steps=500; got '=3'"),
        ("inner.stpes=3", "--set: no setting inner.stpes; did you mean steps?"),
        ("iner.steps=3", "--set: no group of settings iner in iner.steps; did you mean inner?"),
        ("inner=3", "--set: inner is a group of settings; write inner.NAME=VALUE"),
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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no settings file .*absent.toml"):
        override_from_file(Outer(), tmp_path / "absent.toml")
