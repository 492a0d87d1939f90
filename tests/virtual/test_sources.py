"""Target sources by name: allowed settings, and needs of each."""

import pytest

from gankd.errors import ConfigError
from gankd.virtual.sources import Source


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("virtuel", {}, "no source @virtuel; did you mean virtual"),
        ("table", {"draws": 2}, "@table has no setting 'draws'"),
        ("virtual", {"draws": 0}, "draws must lie in 1..1024, got 0"),
        ("virtual", {"draws": 2.5}, "draws must be of the kind of its default 1, got 2.5"),
        ("virtual", {"policy": "bst"}, "no policy 'bst'; did you mean best"),
        ("virtual", {"policy": "best"}, "set draws to 2 or more"),
        ("virtual", {"policy": "fixed", "draws": 4}, "policy fixed has one sample per image"),
        ("bank", {"policy": "zero"}, "policy zero is for @virtual"),
        ("virtual", {"agree": "never"}, "no agree 'never'"),
        ("virtual", {"agree": "swap", "draws": 3}, "agree=swap is for single fresh samples"),
        ("gauss", {"rank": 0}, "rank must be at least 1"),
        ("smooth", {"epsilon": 1.0}, r"epsilon must lie in \(0, 1\)"),
        ("tf", {"a": 1.0}, r"a must lie in \(0, 1\)"),
    ],
)
def test_settings_that_make_no_sense(name: str, settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Source(name, tuple(settings.items()))


@pytest.mark.parametrize(
    ("source", "virtual", "bank"),
    [
        (Source("virtual"), True, False),
        (Source("bank"), True, True),
        (Source("gauss"), True, True),
        (Source("smooth"), True, False),
        (Source("smooth", (("epsilon", 0.1),)), False, False),
        (Source("tf"), False, False),
    ],
)
def test_needs(source: Source, virtual: bool, bank: bool) -> None:
    assert (source.needs_virtual, source.needs_bank) == (virtual, bank)
