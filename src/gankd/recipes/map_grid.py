"""The grid of `gankd map`: a base cell per set, and one factor changed at a time. It was fixed before it was run."""

from dataclasses import dataclass

from gankd.config import override
from gankd.recipes.config import Recipe
from gankd.recipes.ready import RECIPES

BASE = "base"
"""Factor of the cells that the others of a set are compared with: the recipe as it is."""
SETTINGS = ("pipelines=3", "seeds=1", "weak_teacher=accept")
"""Settings of every cell: intervals are over whole pipelines, and a weak teacher is a finding too."""


@dataclass(frozen=True, kw_only=True)
class MapCell:
    """One cell: a recipe with one factor at one level."""

    recipe: str
    factor: str
    level: str
    settings: tuple[str, ...]
    """Changes of the recipe as NAME=VALUE."""
    hours: float
    """Estimate of one core's time, made before the grid was run. What a cell shares with one above it counts there."""

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.recipe}, {self.factor}: {self.level}"

    @property
    def key(self) -> tuple[str, str, str]:
        """Recipe, factor and level, which identify the cell."""
        return self.recipe, self.factor, self.level

    def made(self, data: str | None = None, changes: tuple[str, ...] = ()) -> Recipe:
        """The recipe with the settings of the cell.

        Args:
            data: file of the images, for a recipe that reads one.
            changes: further settings, for all cells.
        """
        root = () if data is None else (f"data.root={data}",)
        return override(RECIPES[self.recipe](), (*SETTINGS, *self.settings, *root, *changes))


def _cell(recipe: str, factor: str, level: str, *settings: str, hours: float) -> MapCell:
    return MapCell(recipe=recipe, factor=factor, level=level, settings=settings, hours=hours)


IMAGES, LABELS, AUGMENT, LENGTH, REAL = "images per label", "labels", "augmentation", "schedule", "real images"
PLAIN, STRONG_CLASSES = "student.augment=[]", 'student.augment=["teacher", "trivial", "erase"]'
TEACHERS, STRONG_VALUES = 'student.augment=["teacher"]', 'student.augment=["teacher", "colour", "erase"]'
ALL, NO_REAL = "data.num_train=none", "student.fake_share=1"
GRID = (
    _cell("digits", BASE, "30 images per class, teacher's augmentation, 1x", hours=0.28),
    _cell("digits", REAL, "none", NO_REAL, hours=0.02),
    _cell("digits", AUGMENT, "none", PLAIN, hours=0.19),
    _cell("digits", AUGMENT, "strong", STRONG_CLASSES, hours=0.19),
    _cell("digits", LENGTH, "4x", "student.updates=8000", hours=0.77),
    _cell("digits", IMAGES, "5", ALL, "data.per_label=5", hours=0.28),
    _cell("digits", IMAGES, "10", ALL, "data.per_label=10", hours=0.28),
    _cell("digits", IMAGES, "all (90)", ALL, hours=0.28),
    _cell("digits", LABELS, "1:50 tail", ALL, "data.tail=50", hours=0.28),
    _cell("rotated-digits", BASE, "25 images per 10 degrees, plain images, 1x", hours=0.30),
    _cell("rotated-digits", REAL, "none", NO_REAL, hours=0.01),
    _cell("rotated-digits", AUGMENT, "teacher's", TEACHERS, hours=0.12),
    _cell("rotated-digits", AUGMENT, "strong", STRONG_VALUES, hours=0.12),
    _cell("rotated-digits", LENGTH, "4x", "student.updates=4800", hours=0.48),
    _cell("rotated-digits", IMAGES, "5", ALL, "data.per_label=5", hours=0.30),
    _cell("rotated-digits", IMAGES, "10", ALL, "data.per_label=10", hours=0.30),
    _cell("rotated-digits", IMAGES, "all (75)", ALL, hours=0.30),
    _cell("rotated-digits", LABELS, "every second", "data.gap=2", hours=0.30),
    _cell("rotated-digits", LABELS, "every fourth", ALL, "data.gap=4", hours=0.30),
    _cell("rotated-digits", LABELS, "every eighth", ALL, "data.gap=8", hours=0.30),
    _cell("turntable", BASE, "5 images per angle, plain images, 1x", hours=0.85),
    _cell("turntable", REAL, "none", NO_REAL, hours=0.04),
    _cell("turntable", AUGMENT, "strong", 'student.augment=["colour", "erase"]', hours=0.37),
    _cell("turntable", LENGTH, "4x", "student.updates=8000", hours=1.48),
    _cell("turntable", IMAGES, "10", "data.per_label=10", hours=0.85),
    _cell("turntable", IMAGES, "all (25)", "data.per_label=25", hours=0.87),
    _cell("turntable", LABELS, "every second", "data.gap=2", hours=0.85),
    _cell("turntable", LABELS, "every fourth", "data.gap=4", hours=0.85),
    _cell("turntable", LABELS, "every eighth", "data.gap=8", hours=0.85),
    _cell("steering-scarce", BASE, "300 frames, teacher's augmentation, 1x", hours=1.69),
    _cell("steering-scarce", REAL, "none", NO_REAL, hours=0.07),
    _cell("steering-scarce", AUGMENT, "none", PLAIN, hours=0.72),
    _cell("steering-scarce", LENGTH, "4x", "student.updates=4800", hours=2.88),
    _cell("steering-scarce", LABELS, "every fourth", "data.gap=4", hours=1.69),
    _cell("faces-scarce", BASE, "2,000 faces, teacher's augmentation, 1x", hours=2.24),
    _cell("faces-scarce", REAL, "none", NO_REAL, hours=0.07),
    _cell("cifar-scarce", BASE, "100 images per class, teacher's augmentation, 1x", hours=3.90),
    _cell("cifar-scarce", REAL, "none", NO_REAL, hours=0.13),
    _cell("cifar-scarce", AUGMENT, "none", PLAIN, hours=1.33),
    _cell("cifar-scarce", LENGTH, "4x", "student.updates=8000", hours=5.34),
    _cell("cifar-scarce", LABELS, "1:50 tail", ALL, "data.tail=50", hours=3.90),
)
"""All cells in the order in which they are run."""
