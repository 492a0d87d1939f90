"""Published tables: the printed numbers, the recipes behind them, and what a cell changes."""

from dataclasses import replace

import pytest

from gankd.config import from_dict, to_dict
from gankd.errors import ConfigError
from gankd.models import ZOO
from gankd.recipes.arms import ARMS
from gankd.recipes.config import Recipe
from gankd.recipes.published import TABLES, Method, PublishedTable, find_table
from gankd.recipes.published.table import NOKD, equal_time
from gankd.training.objective import Objective

EVERY = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


@pytest.mark.parametrize(
    ("name", "pair", "method", "number"),
    [  # corners and middles, looked up in the pictures once more
        ("cifar100-table3", "mobilenet_v2_half", "NOKD", 64.78),
        ("cifar100-table3", "wrn_16_2", "cGAN-KD", 73.98),
        ("cifar100-table4", "resnet32x4-resnet8x4", "cGAN-KD+SSKD", 76.38),
        ("cifar100-table4", "vgg19-vgg8", "FT", 71.85),
        ("cifar100-table4", "vgg13-vgg8", "ReviewKD", None),
        ("cifar100-table5", "resnet50-shufflenet_v1", "SSKD", 77.55),
        ("cifar100-table5", "resnet50-mobilenet_v2_half", "AB", 67.52),
        ("cifar100-table5-densenet", "densenet121-shufflenet_v2", "cGAN-KD+BLKD", 78.04),
        ("cifar100-components", "vgg8", "raw", 69.01),
        ("cifar100-mg", "shufflenet_v2", "M=150000", 75.63),
        ("imagenet100-table6", "resnet34-wrn_40_1", "cGAN-KD+CRD", 73.06),
        ("imagenet100-table6", "vgg19-shufflenet_v1", "FitNet", None),
        ("steering-table7", "resnet56", "cGAN-KD", 1.55),
        ("steering-mg", "resnet56", "M=30000", 1.46),
        ("utkface-table7", "wrn_40_1", "NOKD", 6.70),
        ("rc49-r5", "efficientnet_b0", "cGAN-KD", 1.15),
        ("rc49-mg", "mobilenet_v2", "M=70000", 0.97),
        ("cifar10-c20k", "resnet18-efficientnet_b0", "TAKD", 89.62),
        ("cifar10-uda-c10k", "densenet121-shufflenet_v2", "cGAN-KD+BLKD+UDA", 87.75),
        ("cifar10-sskd-c50k", "resnet18-vgg11", "SSKD", 94.18),
        ("c10k-components", "shufflenet_v2", "filtered", 85.91),
        ("tiny-imagenet", "densenet121-vgg11", "NOKD", None),
        ("vkd-pairs", "vgg13-mobilenet_v2_half", "KD at equal updates", 67.37),
    ],
)
def test_printed_numbers_are_where_they_were_printed(name: str, pair: str, method: str, number: float | None) -> None:
    found = find_table(name).number(pair, method)
    assert found == (None if number is None else pytest.approx(number))


@EVERY
def test_every_table_is_whole(table: PublishedTable) -> None:
    assert len({pair.name for pair in table.pairs}) == len(table.pairs)
    assert table.protocol.endswith(".")
    assert table.deviations
    assert table.printed or table.note
    for method in (*table.methods, *table.controls):
        assert method.arm in ARMS
        if method.loss is not None:
            assert Objective.parse(method.loss).needs_teacher or "LS" in method.loss or "@" in method.loss
    for pair in table.pairs:
        assert all("/" not in method.title for method in table.methods)  # cells are written PAIR/METHOD/SEED
        assert "/" not in pair.name
        for scale in ("tiny", "small", "full"):
            for network in table.networks(pair, scale):
                assert network is None or network.partition("+")[0] in ZOO
        if any(method.assistant for method in table.methods):
            assert pair.assistant is not None


@EVERY
@pytest.mark.parametrize("scale", ["tiny", "small", "full"])
def test_every_cell_is_a_recipe(table: PublishedTable, scale: str) -> None:
    base = table.recipe(scale, "somewhere")  # type: ignore[arg-type]
    assert from_dict(Recipe, to_dict(base)) == base
    for method in (*table.methods, *table.controls, equal_time(1.5)):
        pair = table.pairs[-1]
        cell = table.cell(base, scale, pair, method)  # type: ignore[arg-type]
        teacher, student, _ = table.networks(pair, scale)  # type: ignore[arg-type]
        assert cell.student.model == student
        assert cell.student.teacher == (teacher if table.filters else None)
        assert (cell.data, cell.gan, cell.ratio, cell.synth) == (base.data, base.gan, base.ratio, base.synth)
        factor = 1.5 if "time" in method.title else 1
        if method.matched:
            assert cell.student.updates == round(factor * base.student.updates)
    assert len({table.networks(pair, scale) for pair in table.distinct(scale)}) == len(table.distinct(scale))  # type: ignore[arg-type]


def test_full_scale_has_the_published_schedules() -> None:
    recipe = find_table("cifar100-table4").recipe("full", "data")
    student, share = recipe.student, recipe.student.fake_share
    assert student.updates * student.batch_size == 240 * 150_000
    assert student.updates * (1 - share) * student.batch_size == pytest.approx(240 * 50_000)  # what NOKD sees
    assert [round(240 * at) for at in student.decay_at] == [150, 180, 210]
    assert (student.lr, student.weight_decay, student.optimizer, student.schedule) == (0.05, 5e-4, "sgd", "steps")
    assert (recipe.select.rho, recipe.select.count, recipe.teacher.model) == (0.9, 100_000, "densenet121")
    slow = find_table("cifar100-table3")
    assert slow.cell(recipe, "full", slow.pair("shufflenet_v1"), NOKD).student.lr == 0.01
    ages = find_table("utkface-table7").recipe("full", "data")
    assert [round(350 * at) for at in ages.student.decay_at] == [150, 250]
    assert (ages.select.rho, ages.select.count, ages.teacher.model) == (0.7, 60_000, "vgg11+mlp")
    assert find_table("cifar10-c20k").recipe("full").select.adjust == "argmax"


@pytest.mark.parametrize("scale", ["tiny", "full"])
def test_fewer_generated_images_have_the_share_that_they_have_among_all(scale: str) -> None:
    table = find_table("cifar100-mg")
    base = table.recipe(scale)  # type: ignore[arg-type]
    whole = table.cell(base, scale, table.pairs[0], table.method("M=100000"))  # type: ignore[arg-type]
    assert whole.select.count == base.select.count
    assert whole.student.fake_share == pytest.approx(base.student.fake_share)
    half = table.cell(base, scale, table.pairs[0], table.method("M=50000"))  # type: ignore[arg-type]
    assert base.select.count is not None
    assert half.select.count == base.select.count // 2
    odds = [cell.student.fake_share / (1 - cell.student.fake_share) for cell in (half, whole)]
    assert odds[0] == pytest.approx(odds[1] / 2)
    if scale == "full":
        assert half.student.fake_share == pytest.approx(0.5)  # 50,000 of 100,000


def test_rows_say_which_arm_they_are() -> None:
    arms = {method.title: method.arm for name in ("c10k-components", "cifar10-c10k") for method in TABLES[name].methods}
    assert arms == {
        "NOKD": "real",
        "raw": "raw",
        "subsampled": "subsampled",
        "filtered": "filtered",
        "adjusted": "adjusted",
        "BLKD": "kd_matched",
        "TAKD": "kd_matched",
        "cGAN-KD": "adjusted",
        "cGAN-KD+BLKD": "adjusted_kd",
        "cGAN-KD+TAKD": "adjusted_kd",
    }
    with pytest.raises(ConfigError, match="losses go with"):
        Method("odd", "KD", "raw")


def test_an_assistant_and_settings_reach_the_recipe() -> None:
    table = find_table("cifar10-c10k")
    base, pair = table.recipe("tiny"), table.pairs[0]
    assert table.cell(base, "tiny", pair, table.method("TAKD")).student.assistants == ("cnn8",)
    assert table.cell(base, "tiny", pair, table.method("BLKD")).student.assistants == ()
    wide = find_table("cifar10-uda-c10k")
    cell = wide.cell(base, "tiny", wide.pairs[0], wide.methods[-1])
    assert cell.student.augment == ("shift", "rotate", "scale", "flip", "colour")
    alone = replace(table, filters=False)
    cell = alone.cell(base, "tiny", pair, table.method("BLKD"))
    assert (cell.teacher.model, cell.student.teacher) == ("cnn16", None)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no published table 'rc49'"):
        find_table("rc49")
    with pytest.raises(ConfigError, match="no method 'NOKd' in rc49-r5; did you mean NOKD"):
        find_table("rc49-r5").method("NOKd")
