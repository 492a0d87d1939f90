"""Every setting explains itself, in one place, and all pages repeat it."""

import pydoc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from gankd.commands.listing import setting_rows, settings_page
from gankd.recipes.config import MATTER, Recipe, StudentConfig
from gankd.settings import Setting, explained, settings_of, texts
from gankd.training.gan import GanConfig

Outcome = tuple[int, str, str]
ROWS = list(settings_of(Recipe))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_setting_has_a_text_of_its_own(row: Setting) -> None:
    assert row.text.endswith("."), f"{row.name}: write a string below the field that says what it is"


def test_the_settings_that_matter_exist() -> None:
    assert {row.name for row in ROWS} >= set(MATTER)


def test_the_page_is_that_of_the_code() -> None:
    page = Path(__file__).parents[1] / "docs/settings.md"
    assert page.read_text() == settings_page(setting_rows()), "docs/settings.md is stale: make lists"


def test_help_tells_what_the_list_tells() -> None:
    shown = " ".join(pydoc.plain(pydoc.render_doc(GanConfig)).replace(" | ", " ").split())
    for row in (row for row in ROWS if row.name.startswith("gan.")):
        assert f"{row.name}: {row.text} ({row.range}; default: {row.default})" in shown
    assert "student.fake_share: Share of generated images in each batch" in str(StudentConfig.__doc__)  # inherited


@explained
@dataclass(frozen=True)
class Group:
    """Settings of a test."""

    where: ClassVar[str] = "here."

    size: Annotated[int, Field(ge=1, le=8)] = 4
    """Side in
    pixels."""
    kinds: tuple[Literal["a", "b"], ...] = ("a",)
    """Kinds."""
    share: Annotated[float, Field(gt=0)] | None = None
    bare: bool = True
    given: dict[str, int] = field(default_factory=lambda: {"width": 8})
    plain: Literal["x"] | int = "x"

    """Below an empty line."""


def test_what_a_row_is_made_of() -> None:
    assert texts(Group) == {"size": "Side in pixels.", "kinds": "Kinds.", "plain": "Below an empty line."}
    rows = [(row.name, row.default, row.range) for row in settings_of(Group, "here.")]
    assert rows == [
        ("here.size", "4", "whole number, in 1..8"),
        ("here.kinds", "[a]", "list: a or b"),
        ("here.share", "none", "number, positive, or none"),
        ("here.bare", "true", "true or false"),
        ("here.given", "{width=8}", "{name=value, ...}"),
        ("here.plain", "x", "x or whole number"),
    ]
    assert "    here.size: Side in pixels. (whole number, in 1..8; default: 4)" in str(Group.__doc__)


def test_the_list_takes_beginnings_of_names(gankd: Callable[..., Outcome], refused: Callable[..., str]) -> None:
    code, out, _ = gankd("list", "settings", "gan.ema", "seeds")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("gan.", "synth."))] == [
        "gan.ema_half_life",
        "gan.ema_decay",
        "gan.ema_start",
    ]
    assert "\n* seeds " in out
    assert "no setting 'gan.step_s'; did you mean gan.steps" in refused("list", "settings", "gan.step_s")
