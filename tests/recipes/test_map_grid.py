"""The grid of the map: one factor at a time, within its budget, of cells that can be run."""

import pytest

from gankd.config import to_dict
from gankd.recipes.data import load_splits
from gankd.recipes.map_grid import BASE, GRID, MapCell
from gankd.recipes.ready import RECIPES

MOST_HOURS = 40


def test_the_grid_fits_its_budget() -> None:
    assert sum(cell.hours for cell in GRID) <= MOST_HOURS
    assert all(cell.hours > 0 for cell in GRID)


def test_every_set_has_a_base_first_and_no_cell_twice() -> None:
    assert len({cell.key for cell in GRID}) == len(GRID)
    for recipe in {cell.recipe for cell in GRID}:
        own = [cell for cell in GRID if cell.recipe == recipe]
        assert [cell.factor == BASE for cell in own] == [True] + [False] * (len(own) - 1)
        assert own[0].settings == ()
        assert len({str(to_dict(cell.made())) for cell in own}) == len(own), recipe


def test_a_cell_is_its_recipe_over_three_pipelines() -> None:
    cell = next(cell for cell in GRID if cell.level == "1:50 tail" and cell.recipe == "cifar-scarce")
    recipe = cell.made("cifar.npz", ("student.updates=7",))
    assert (recipe.data.root, recipe.data.tail, recipe.data.num_train) == ("cifar.npz", 50, None)
    assert (recipe.pipelines, recipe.seeds, recipe.weak_teacher, recipe.student.updates) == (3, 1, "accept", 7)
    assert recipe.teacher == RECIPES["cifar-scarce"]().teacher


@pytest.mark.parametrize("cell", [cell for cell in GRID if "digits" in cell.recipe], ids=lambda cell: cell.name)
def test_the_images_of_a_cell_are_there(cell: MapCell) -> None:
    train = load_splits(cell.made().data).train
    if cell.factor == "images per label" and cell.level.isdigit():
        assert int(train.task.groups(train.labels).bincount().max()) == int(cell.level)
    assert len(train) >= 50
