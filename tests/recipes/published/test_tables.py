"""Published tables: the printed numbers, the recipes behind them, and what a cell changes."""

from dataclasses import replace

import pytest

from gankd.config import from_dict, override, to_dict
from gankd.errors import ConfigError
from gankd.models import ZOO
from gankd.recipes.arms import DEFAULT_ARMS, Arm
from gankd.recipes.config import Recipe, StudentConfig
from gankd.recipes.published import TABLES, Pair, PublishedTable, find_table
from gankd.recipes.published.table import ASSISTED, NOKD, Scale, equal_time, row

EVERY = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


SCALES: tuple[Scale, ...] = ("tiny", "small", "full")


def cell(table: PublishedTable, base: Recipe, scale: Scale, pair: Pair, arm: Arm) -> Recipe:
    """All settings of the students of one row for one pair."""
    return table.pair_arm(base, scale, pair, arm).recipe(table.pair_recipe(base, scale, pair))


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


CHECKSUMS = {
    "cifar100-table3": (16, 1147.06, 9893.40),
    "imagenet100-table3": (16, 1172.20, 10119.27),
    "cifar100-table4": (117, 8507.13, 505191.85),
    "cifar100-table5": (168, 12258.43, 1047202.15),
    "cifar100-table5-densenet": (24, 1744.74, 22158.46),
    "imagenet100-table6": (63, 4646.16, 150225.28),
    "steering-table7": (14, 42.50, 285.49),
    "utkface-table7": (12, 71.61, 455.39),
    "cifar100-components": (16, 463.26, 3719.31),
    "steering-components": (20, 51.39, 495.32),
    "cifar100-mg": (36, 1024.80, 17870.70),
    "steering-mg": (40, 96.05, 1721.49),
    "cifar10-c50k": (54, 363.97, 9978.63),
    "cifar10-c20k": (54, 571.99, 15692.51),
    "cifar10-c10k": (54, 803.40, 22062.19),
    "cifar10-sskd-c50k": (6, 36.72, 122.76),
    "cifar10-sskd-c20k": (6, 56.64, 191.95),
    "cifar10-sskd-c10k": (6, 83.87, 286.90),
    "cifar10-uda-c50k": (27, 176.86, 2464.14),
    "cifar10-uda-c20k": (27, 279.81, 3935.64),
    "cifar10-uda-c10k": (27, 418.86, 5850.62),
    "rc49-r25": (6, 3.36, 12.78),
    "rc49-r15": (6, 4.28, 15.47),
    "rc49-r5": (6, 8.83, 29.99),
    "c10k-mg": (30, 450.16, 6701.50),
    "rc49-mg": (33, 41.54, 689.46),
    "c10k-components": (15, 229.12, 1772.75),
    "rc49-components": (15, 20.39, 162.34),
    "vkd-pairs": (30, 2166.71, 33453.59),
    **dict.fromkeys(("tiny-imagenet", "tiny-imagenet-uda", "tiny-imagenet-sskd"), (0, 0, 0)),
    **dict.fromkeys(("utkface-table8", "utkface-components", "utkface-mg"), (0, 0, 0)),
    **dict.fromkeys(("steering-filter-vgg8", "steering-filter-resnet18"), (0, 0, 0)),
    **dict.fromkeys(("utkface-filter-resnet32x4", "utkface-filter-densenet121"), (0, 0, 0)),
}
"""Count, sum, and sum of place times number, row by row, taken from the transcript of the printed tables by itself."""


@EVERY
def test_printed_numbers_add_up_to_those_of_the_printed_table(table: PublishedTable) -> None:
    numbers = list(table.printed.values())
    placed = sum(place * number for place, number in enumerate(numbers, 1))
    assert (len(numbers), round(sum(numbers), 2), round(placed, 2)) == CHECKSUMS[table.name]


@EVERY
def test_every_table_is_whole(table: PublishedTable) -> None:
    assert len({pair.name for pair in table.pairs}) == len(table.pairs)
    assert table.protocol.endswith(".")
    assert table.deviations
    assert table.printed or table.note
    rows = (*table.arms, *table.controls)
    assert len({arm.name for arm in rows}) == len({arm.title for arm in rows}) == len(rows)
    assert set(table.counts) <= {arm.title for arm in table.arms}
    for arm in rows:
        assert arm.folder_name in DEFAULT_ARMS
        assert (arm.role == "control") == (arm in table.controls)
        if arm.loss is not None:
            assert arm.reads_teacher or "LS" in arm.loss or "@" in arm.loss
        assert "/" not in arm.title  # cells are written PAIR/METHOD/SEED
    for pair in table.pairs:
        assert "/" not in pair.name
        for scale in SCALES:
            for network in table.networks(pair, scale):
                assert network is None or network.partition("+")[0] in ZOO
        if any(arm.title in ASSISTED for arm in table.arms):
            assert pair.assistant is not None


@EVERY
@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_is_a_recipe(table: PublishedTable, scale: Scale) -> None:
    base = table.recipe(scale, "somewhere")
    assert from_dict(Recipe, to_dict(base)) == base
    assert base.select.rho is not None
    survivors = base.synth.pool * base.select.accept_share * base.select.rho
    for arm in (*table.arms, *table.controls, equal_time(1.5)):
        pair = table.pairs[-1]
        found = cell(table, base, scale, pair, arm)
        teacher, student, _ = table.networks(pair, scale)
        assert found.student.model == student
        assert found.student.teacher == (teacher if table.filters else None)
        assert found.student.loss == (arm.loss or base.student.loss)
        assert found.select.count is not None
        assert survivors > 1.09 * found.select.count  # acceptance is drawn
        assert (found.data, found.gan, found.ratio, found.synth) == (base.data, base.gan, base.ratio, base.synth)
        factor = 1.5 if "time" in arm.title else 1
        if arm.updates == "passes":
            factor = 1 - base.student.fake_share
        assert found.student.updates == round(factor * base.student.updates)
    assert len({table.networks(pair, scale) for pair in table.distinct(scale)}) == len(table.distinct(scale))


def test_full_scale_has_the_published_schedules() -> None:
    recipe = find_table("cifar100-table4").recipe("full", "data")
    student, share = recipe.student, recipe.student.fake_share
    assert student.updates * student.batch_size == 240 * 150_000
    assert student.updates * (1 - share) * student.batch_size == pytest.approx(240 * 50_000)  # what NOKD sees
    assert [round(240 * at) for at in student.decay_at] == [150, 180, 210]
    assert (student.lr, student.weight_decay, student.optimizer, student.schedule) == (0.05, 5e-4, "sgd", "steps")
    assert (recipe.select.rho, recipe.select.count, recipe.teacher.model) == (0.9, 100_000, "densenet121")
    for name in ("cifar100-table4", "cifar10-c20k"):
        full, small = find_table(name).recipe("full", "data"), find_table(name).recipe("small", "data")
        assert full.teacher.augment == full.student.augment == ("crop", "flip")
        assert small.teacher.augment == small.student.augment == ("shift", "flip")  # as in committed results
    slow = find_table("cifar100-table3")
    assert cell(slow, recipe, "full", slow.pair("shufflenet_v1"), NOKD).student.lr == 0.01
    ages = find_table("utkface-table7").recipe("full", "data")
    assert [round(350 * at) for at in ages.student.decay_at] == [150, 250]
    assert (ages.select.rho, ages.select.count, ages.teacher.model) == (0.7, 60_000, "vgg11+mlp")
    first = find_table("cifar10-c20k").recipe("full").select
    assert (first.adjust, first.filter) == ("argmax", "global")


def test_full_scale_has_the_published_density_ratio() -> None:
    wide, narrow = (2048, 1024, 512, 256, 128), (1024, 512, 256, 128, 64)
    for name, features, hidden, penalty, epochs, batch, decay, drops in (
        ("cifar100-table3", "classifier", wide, 1e-2, 200, 256, 1e-4, [80, 150]),
        ("imagenet100-table3", "classifier", wide, 1e-2, 200, 256, 1e-4, [80, 150]),
        ("steering-table7", "autoencoder", narrow, 1e-2, 200, 256, 1e-4, [80, 150]),
        ("utkface-table7", "autoencoder", narrow, 1e-2, 200, 256, 1e-4, [80, 150]),
        ("cifar10-c10k", "classifier", wide, 1e-3, 350, 512, 1e-4, [150, 250]),
        ("rc49-r5", "autoencoder", wide, 1e-3, 350, 256, 0.0, [100, 200]),
    ):
        ratio = find_table(name).recipe("full").ratio
        assert (ratio.features, ratio.hidden, ratio.penalty) == (features, hidden, penalty), name
        assert (ratio.epochs, ratio.batch_size, ratio.weight_decay) == (epochs, batch, decay), name
        assert (ratio.loss, ratio.lr, ratio.dropout, ratio.output) == ("softplus", 1e-4, (0.5,), "relu")
        assert [round(epochs * share) for share in ratio.decay_at] == drops
        assert ratio.keep == "last"


def test_full_scale_has_the_published_batches_and_angles() -> None:
    large = find_table("imagenet100-table6").recipe("full")
    assert (large.teacher.batch_size, large.student.batch_size) == (128, 256)
    assert large.student.updates * 256 == pytest.approx(240 * 217_000, rel=1e-4)
    assert large.teacher.updates * 128 == pytest.approx(240 * 117_000, rel=1e-4)
    assert (large.data.size, large.teacher.model, large.student.lr) == (128, "densenet161", 0.05)
    for images, rho in ((25, 0.5), (15, 0.8), (5, 0.9)):
        angles = find_table(f"rc49-r{images}").recipe("full")
        assert (angles.data.per_label, angles.select.rho, angles.select.count) == (images, rho, 50_000)
        assert (angles.student.lr, angles.student.weight_decay, angles.student.batch_size) == (0.01, 1e-4, 128)
        assert angles.student.augment == ()
        assert angles.teacher.updates * 128 == pytest.approx(350 * 450 * images, rel=1e-3)
        assert angles.student.updates * 128 == pytest.approx(350 * (450 * images + 50_000), rel=1e-3)
        assert [round(350 * at) for at in angles.student.decay_at] == [150, 250]
        assert angles.teacher.model == "vgg16+mlp128"


def test_fine_tuned_rows_go_on_from_nokd() -> None:
    """NOKD is one student for all rows, as long as it is alone; what was published without it starts from scratch."""
    for name in ("cifar100-table4", "cifar100-mg", "imagenet100-table3", "utkface-table7"):
        table = find_table(name)
        tuned = override(table.recipe("full"), ["student.init=finetune"])
        plain = round(tuned.student.updates * (1 - tuned.student.fake_share))  # passes over real images
        assert tuned.student.finetune_lr == (None if "utkface" in name else 0.01)
        pair = table.pairs[0]
        base, starts = table.pair_recipe(tuned, "full", pair), set()
        for arm in (*table.arms, *table.controls, equal_time(2.0)):
            own = table.pair_arm(tuned, "full", pair, arm)
            student = own.recipe(base).student
            matched = arm.updates != "passes"
            assert (student.init, student.start_updates) == (("finetune", plain) if matched else ("scratch", None))
            assert own.starts_from_another(student) == matched
            if matched:
                assert student.updates == tuned.student.updates * (2 if "time" in arm.title else 1)
                starts.add(as_labels_only(own.start.recipe(base).student))
            else:
                assert student.updates == plain
                assert student.lr == base.student.lr
        nokd = table.pair_arm(tuned, "full", pair, NOKD).recipe(base).student
        assert starts == {as_labels_only(nokd)}


def as_labels_only(config: StudentConfig) -> StudentConfig:
    """Settings without those that a student of real images and labels only does not depend on."""
    defaults = StudentConfig()
    return replace(
        config.from_scratch, loss=defaults.loss, assistants=(), fake_share=defaults.fake_share, kd_on=defaults.kd_on
    )


def test_fine_tuned_rows_with_an_augmentation_start_from_a_student_with_it() -> None:
    table = find_table("cifar10-uda-c10k")
    tuned, pair = override(table.recipe("tiny"), ["student.init=finetune"]), table.pairs[0]
    own = table.pair_arm(tuned, "tiny", pair, table.arm("cGAN-KD+BLKD+UDA"))
    base = table.pair_recipe(tuned, "tiny", pair)
    assert own.start.recipe(base).student.augment == own.recipe(base).student.augment != base.student.augment


def test_a_slow_student_keeps_the_learning_rate_that_is_asked_for() -> None:
    table = find_table("cifar100-table3")
    pair = table.pair("shufflenet_v1")
    own = override(table.recipe("full"), ["student.lr=0.02"])
    assert cell(table, own, "full", pair, NOKD).student.lr == 0.02


def test_what_differs_is_said_as_it_is() -> None:
    scarce, whole = (" ".join(find_table(f"cifar10-{name}").deviations) for name in ("c10k", "c50k"))
    assert "5,000 labelled images on top" in scarce
    assert "carved out" not in scarce  # num_train counts what is left
    assert "389 epochs where 350" in whole
    assert "267 epochs where 240" in " ".join(find_table("imagenet100-table3").deviations)
    assert "among those of the published count" in " ".join(find_table("rc49-mg").deviations)
    assert "weight decay 1e-4" in " ".join(find_table("cifar100-table4").deviations)
    for table in TABLES.values():
        from_scratch = "2104.03164v1" in table.source or not table.filters  # first version; VKD
        assert any("finetune" in text for text in table.deviations) != from_scratch, table.name
        assert any("held out from the density ratio" in text for text in table.deviations) == table.filters


@pytest.mark.parametrize("scale", ["tiny", "full"])
def test_fewer_generated_images_have_the_share_that_they_have_among_all(scale: Scale) -> None:
    table = find_table("cifar100-mg")
    base = table.recipe(scale)
    whole = cell(table, base, scale, table.pairs[0], table.arm("M=100000"))
    assert whole.select.count == base.select.count
    assert whole.student.fake_share == pytest.approx(base.student.fake_share)
    half = cell(table, base, scale, table.pairs[0], table.arm("M=50000"))
    assert base.select.count is not None
    assert half.select.count == base.select.count // 2
    odds = [found.student.fake_share / (1 - found.student.fake_share) for found in (half, whole)]
    assert odds[0] == pytest.approx(odds[1] / 2)
    if scale == "full":
        assert half.student.fake_share == pytest.approx(0.5)  # 50,000 of 100,000


def test_rows_say_which_arm_they_are() -> None:
    arms = {arm.title: arm for name in ("c10k-components", "cifar10-c10k") for arm in TABLES[name].arms}
    assert {title: arm.folder_name for title, arm in arms.items()} == {
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
    assert {title for title, arm in arms.items() if arm.updates == "passes"} == {"NOKD", "BLKD", "TAKD"}
    with pytest.raises(ConfigError, match="a loss goes with real images only or with adjusted ones, got images=raw"):
        row("odd", "KD", "raw")


def test_an_assistant_and_settings_reach_the_recipe() -> None:
    table = find_table("cifar10-c10k")
    base, pair = table.recipe("tiny"), table.pairs[0]
    assert cell(table, base, "tiny", pair, table.arm("TAKD")).student.assistants == ("cnn8",)
    assert cell(table, base, "tiny", pair, table.arm("cGAN-KD+TAKD")).student.assistants == ("cnn8",)
    assert cell(table, base, "tiny", pair, table.arm("BLKD")).student.assistants == ()
    wide = find_table("cifar10-uda-c10k")
    found = cell(wide, base, "tiny", wide.pairs[0], wide.arms[-1])
    assert found.student.augment == ("shift", "rotate", "scale", "flip", "colour")
    labels = find_table("cifar10-sskd-c10k")
    assert (
        cell(labels, labels.recipe("tiny"), "tiny", labels.pairs[0], labels.arm("cGAN-KD+SSKD")).select.adjust == "none"
    )
    own_teachers = replace(table, filters=False)
    found = cell(own_teachers, base, "tiny", pair, table.arm("BLKD"))
    assert (found.teacher.model, found.student.teacher) == ("cnn16", None)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no published table 'rc49'"):
        find_table("rc49")
    few = find_table("cifar100-mg")
    none = override(few.recipe("tiny"), ["select.count=none"])
    with pytest.raises(ConfigError, match="select.count must be a number in cifar100-mg"):
        few.pair_arm(none, "tiny", few.pairs[0], few.arm("M=5000"))
    with pytest.raises(ConfigError, match="no method 'NOKd' in rc49-r5; did you mean NOKD"):
        find_table("rc49-r5").arm("NOKd")
    longer = find_table("rc49-r5").arm("NOKD at equal time x2.5")  # as stored cells call it
    assert longer == equal_time(2.5)


def test_tables_of_the_first_version_have_its_networks() -> None:
    cifar, angles, tiny = (find_table(name) for name in ("cifar10-c10k", "rc49-r5", "tiny-imagenet"))
    assert cifar.networks(cifar.pair("mobilenet_v2-vgg11"), "full") == (
        *("mobilenet_v2_2021", "vgg11_2021", "vgg13_2021"),
    )
    assert cifar.networks(cifar.pair("resnet18-vgg11"), "full")[0] == "resnet18"
    assert angles.networks(angles.pair("efficientnet_b0"), "full")[1] == "efficientnet_b0_rc49+mlp128"
    assert angles.networks(angles.pair("mobilenet_v2"), "full")[1] == "mobilenet_v2+mlp128"
    assert [tiny.networks(pair, "full") for pair in tiny.pairs] == [
        ("densenet121_2021", "vgg11", "mobilenet_v2_2021"),
        ("densenet121_2021", "shufflenet_v2_2021", "mobilenet_v2_2021"),
    ]


@pytest.mark.parametrize("scale", SCALES)
def test_the_published_protocol_has_the_authors_choices(scale: Scale) -> None:
    table = find_table("cifar100-table4", "published")
    base, own = table.recipe(scale), find_table("cifar100-table4").recipe(scale)
    assert base.precision == "fp32"
    assert base.student.initial == base.teacher.initial == "published"
    assert (base.select.subsample, base.select.keep_burn_in, base.select.per_label) == ("running_max", False, True)
    assert base.synth.pool > 100 * base.select.burn_in
    pair, batch = table.pairs[-1], own.student.batch_size
    rows = [table.arm(name) for name in ("NOKD", "BLKD", "cGAN-KD+BLKD")]
    nokd, blkd, method = (cell(table, base, scale, pair, row).student for row in rows)
    assert [each.batch_size for each in (nokd, blkd, method)] == [batch // 2, batch // 2, batch]
    passes = round(own.student.updates * (1 - own.student.fake_share))
    assert nokd.updates == blkd.updates == round(passes / 0.5)
    assert (blkd.init, method.init, method.updates) == ("scratch", "finetune", own.student.updates)
    shared = table.pair_recipe(base, scale, pair)
    start = table.pair_arm(base, scale, pair, rows[-1]).start.recipe(shared).student
    assert (start.batch_size, start.updates) == (nokd.batch_size, nokd.updates)
    scratch = override(base, ["student.init=scratch"])
    assert cell(table, scratch, scale, pair, rows[0]).student.batch_size == batch // 2


def test_the_published_protocol_differs_by_table() -> None:
    classes, ages, first = (
        find_table(name, "published").recipe("full") for name in ("cifar100-table3", "utkface-table7", "cifar10-c10k")
    )
    assert (classes.select.burn_in, classes.select.judged, classes.select.order) == (5000, 600, "turns")
    assert (ages.select.burn_in, ages.select.order, ages.synth.labels) == (100, "random", "balanced")
    assert (first.student.initial, first.student.init) == ("pytorch", "scratch")
    for recipe in (classes, ages, first):
        assert recipe.data.val_trains
        assert (recipe.ratio.fresh, recipe.ratio.calibrated, recipe.ratio.held_out) == (True, False, 0.02)
        assert not recipe.student.nesterov
        assert not recipe.teacher.nesterov
    rows = [find_table(name, "published") for name in ("cifar10-uda-c10k", "cifar100-table4", "cifar10-c10k")]
    uda, review, plain = rows
    assert uda.recipe("full").student.nesterov
    base, pair = review.recipe("full"), review.pairs[0]
    assert cell(review, base, "full", pair, review.arm("ReviewKD")).student.nesterov
    assert uda.arm("BLKD+UDA").loss == uda.control_loss == "0.5*Label + 0.5*KD(T=5)"
    assert plain.arm("BLKD").loss == plain.control_loss == "0.5*Label + 0.05*KD(T=5)"  # the mean over ten classes
    assert find_table("cifar10-c10k").arm("BLKD").loss == "0.5*Label + 0.5*KD(T=5)"


def test_sskd_of_the_first_version_has_its_own_schedule_and_networks() -> None:
    table = find_table("tiny-imagenet-sskd")
    base = table.recipe("full", "data")
    student = table.pair_recipe(base, "full", table.pairs[1]).student
    assert (student.batch_size, student.lr, student.weight_decay) == (32, 0.01, 1e-4)
    assert student.updates == round(240 * (98_179 + 100_000) / 32)
    assert table.networks(table.pairs[1], "full") == ("resnet50", "shufflenet_v2_sskd", None)
    assert find_table("cifar10-sskd-c10k").networks(Pair(student="vgg11"), "full")[1] == "vgg11"


def test_ablations_have_their_own_filter() -> None:
    table = find_table("utkface-filter-densenet121")
    base = table.recipe("full", "data")
    assert (base.teacher.model, base.select.rho) == ("densenet121+mlp", 0.9)
    assert "filtered by densenet121 with rho = 0.9 " in table.protocol
    assert not any("VGG" in text for text in (table.protocol, *table.deviations))
    steps = find_table("utkface-components")
    base, pair = steps.recipe("full", "data"), steps.pairs[0]
    rhos = {arm.title: cell(steps, base, "full", pair, arm).select.rho for arm in steps.arms}
    assert (rhos["adjusted"], rhos["adjusted, rho=0.9"], rhos["filtered, rho=0.9"]) == (0.7, 0.9, 0.9)


@EVERY
def test_a_protocol_leaves_only_what_it_does_not_have(table: PublishedTable) -> None:
    left = replace(table, under="published").differences
    assert table.differences == table.deviations
    assert set(left) <= set(table.deviations)
    if table.filters:
        gone = ("running maximum", "float32", "drawn once", "validation split", "Nesterov", "calibrate it")
        assert not any(word in text for text in left for word in gone)
        assert any("held out from the density ratio to measure" in text for text in left)
