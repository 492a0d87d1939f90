"""Commands of virtual knowledge distillation (VKD)."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gankd.cli.command import ENGINES, TABLE, TRACK, Command, Option
from gankd.cli.options import RECIPE, SHARED, STUDENTS_PER_ARM, WORKERS, names
from gankd.cli.views import facts

if TYPE_CHECKING:
    from gankd.console import Console
    from gankd.recipes.config import Recipe

STUDENTS = (STUDENTS_PER_ARM, WORKERS)


def train(
    recipe: "Recipe",
    folder: Path,
    *,
    preset: Literal["robust", "faithful"] = "robust",
    console: "Console | None" = None,
) -> dict[str, Any]:
    """Train the teacher and its virtual teacher, with the settings of a preset."""
    from gankd.commands import vkd
    from gankd.virtual import faithful

    if preset == "faithful":
        recipe = replace(recipe, virtual=faithful(recipe.virtual))
    return vkd.train(recipe, folder, console=console)


COMMANDS = (
    Command(
        name="vkd train",
        help="train the teacher and, alongside it, its virtual teacher: a generator of its softened outputs",
        calls="gankd.cli.virtual:train",
        opens="recipe",
        options=(
            *RECIPE,
            *SHARED,
            TRACK,
            Option(
                "--preset",
                choices=["robust", "faithful"],
                help="faithful: only the adversarial loss, as in the paper (default: robust)",
            ),
        ),
        view=facts("virtual teacher"),
    ),
    Command(
        name="vkd inspect",
        help="measure how well a virtual teacher's samples match the teacher's outputs, and name what fails",
        calls="gankd.commands.vkd:inspect",
        opens="recipe",
        options=RECIPE,
    ),
    Command(
        name="vkd student",
        help="train students from a virtual teacher, with labels only and the table of class means as controls",
        calls="gankd.commands.vkd:student",
        opens="recipe",
        options=(
            *RECIPE,
            Option(
                "--loss",
                help='for example "KD(T=4)@virtual + 0.8*CRD" (default: only the virtual teacher); see gankd list '
                "sources",
            ),
            Option("--from", dest="source", type=Path, metavar="FILE", help="use this virtual.safetensors"),
            *STUDENTS,
            *SHARED,
            TRACK,
        ),
    ),
    Command(
        name="vkd self",
        help="train students from a generator of their own outputs, without a teacher",
        calls="gankd.commands.vkd:self",
        opens="recipe",
        options=(*RECIPE, *STUDENTS),
    ),
    Command(
        name="vkd peers",
        help="train students that teach one another through generators of their outputs",
        calls="gankd.commands.vkd:peers",
        opens="recipe",
        options=(
            *RECIPE,
            Option(
                "--networks",
                type=names,
                help="the other students in this process, comma-separated (default: one more of the same network)",
            ),
            Option("--exchange", type=Path, metavar="FOLDER", help="folder shared with peers in other processes"),
            Option("--name", help="name of this peer in the shared folder"),
            *STUDENTS,
        ),
    ),
    Command(
        name="vkd table",
        help="tune and compare every target source, with about 150 + 23 students per seed; writes a page",
        calls="gankd.commands.vkd_table:vkd_table",
        opens="recipe",
        options=(
            *RECIPE,
            Option("--page", type=Path, help="Markdown file, with a .json alongside; other recipes on it stay"),
            TABLE,
            *STUDENTS,
            *ENGINES,
        ),
    ),
)
