"""CIFAR-10 with 50,000, 20,000 and 10,000 training images, and Tiny-ImageNet: the first version of cGAN-KD."""

from dataclasses import replace
from functools import partial
from typing import Any

from gankd.data.augment import Augmentation
from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.recipes.published.cifar100 import (
    ADJUSTED,
    FILTERED,
    MG_DEVIATION,
    RAW,
    SSKD_LOSS,
    SUBSAMPLED,
    count_rows,
    m_counts,
)
from gankd.recipes.published.table import (
    CGAN_KD,
    COMMON,
    NOKD,
    RATIO_DEVIATIONS,
    Authors,
    Closed,
    Family,
    Pair,
    PublishedTable,
    by_pair,
    counted_before_split,
    row,
    sgd,
)
from gankd.synthetic import SelectConfig
from gankd.training.gan_published import biggan_cifar, biggan_tiny_imagenet
from gankd.training.ratio import published_ratio

PAPER = "Ding et al., arXiv 2104.03164v1 and v2"
FAKES = 100_000
RATIO = published_ratio(epochs=350, drops=(150, 250))
BLKD_LOSS = "0.5*Label + 0.5*KD(T=5)"


def full(train: int, rho: float) -> Recipe:
    """Published settings: 350 epochs of SGD, BigGAN, cDRE-F-cSP + RS, labels from the teacher, M^g = 100,000."""
    schedule: dict[str, Any] = {"epochs": 350, "lr": 0.1, "weight_decay": 1e-4, "drops": (150, 250), "batch": 128}
    return Recipe(
        data=DataConfig(name="cifar10", num_train=None if train == 50_000 else train),
        teacher=TeacherConfig(model="densenet121", **sgd(images=train, **schedule)),
        gan=replace(biggan_cifar(), diff_augment=()),
        ratio=replace(RATIO, features="classifier", penalty=1e-3, batch_size=512),
        synth=SynthConfig(pool=round(2.2 * FAKES / rho)),
        student=StudentConfig(fake_share=FAKES / (train + FAKES), **sgd(images=train + FAKES, **schedule)),
    )


DEVIATIONS = (
    Closed(
        "Subsampling keeps the best half per class of a fixed pool (budget); the paper uses rejection with a running "
        "maximum (--set select.subsample=running_max)."
    ),
    *COMMON,
    "The density ratio reads features of a small classifier; the paper uses those of a DenseNet-121.",
    "All sets have the same number of generator updates; the paper trains for more epochs on fewer images.",
    *RATIO_DEVIATIONS,
)
WHOLE = Closed("A validation split, one image in ten, is carved out of the training images.")
SCARCE = Closed(
    "One image in ten of the 50,000 is used for validation: 5,000 labelled images on top of the training images, which "
    "the published students do not have. Of the authors' file, which holds only the training images, one in five."
)


def _blkd(classes: int) -> dict[str, Any]:
    """Settings of tables whose authors take the mean over classes, not the sum, in KD."""
    return {
        "control_loss": BLKD_LOSS,
        "authors_losses": {BLKD_LOSS: f"0.5*Label + {0.5 / classes:g}*KD(T=5)"},
    }


def _mean_over(classes: int) -> Closed:
    return Closed(f"KL is summed over classes; the published code takes the mean, which is {classes} times weaker.")


UDA_DEVIATIONS = (
    "UDA: every image is shifted, rotated, scaled, flipped and recoloured; the paper averages the losses on plain "
    "images and on images changed by the 25 CIFAR-10 policies of AutoAugment.",
    "The printed accuracy of UDA is the best of all epochs on the test images, and so is its teacher; here it is that "
    "of the last update. Its teachers learn without UDA.",
)
SSKD_SCHEDULE: dict[str, Any] = {"epochs": 240, "drops": (150, 180, 210)}
SSKD_DEVIATIONS = (
    "SSKD turns one batch of upright images three times.",
    "Teachers have the schedule of the filter; those published for SSKD have 240 epochs and a learning rate of 0.05, "
    "and the best of all epochs on the test images is used. Students are those of the last update.",
)


def _protocol(train: int, rho: float) -> str:
    return (
        f"Top-1 error on the 10,000 test images, last update (shown as accuracy). Students see {train:,} real and "
        f"M^g = 100,000 generated images (BigGAN, cDRE-F-cSP + RS, filtered by DenseNet-121 with rho = {rho}, labels "
        "replaced by the teacher's) for 350 epochs from scratch; SGD, batches of 128, learning rate 0.1, divided by 10 "
        "after epochs 150 and 250, weight decay 1e-4, crop and flip. BLKD and TAKD: T = 5, weight 0.5."
    )


METHODS = (
    NOKD,
    row("BLKD", BLKD_LOSS, passes=True),
    row("TAKD", BLKD_LOSS, passes=True),
    CGAN_KD,
    row("cGAN-KD+BLKD", BLKD_LOSS, "adjusted"),
    row("cGAN-KD+TAKD", BLKD_LOSS, "adjusted"),
)
STUDENTS = ("vgg11", "shufflenet_v2", "efficientnet_b0")
TABLE1: dict[str, dict[tuple[str, float], tuple[str, str, str]]] = {
    "C-50K": {
        ("mobilenet_v2", 5.92): (
            "8.42 6.72 7.35 6.83 5.89 6.23",
            "7.18 6.30 6.56 6.84 6.11 5.88",
            "7.10 6.45 6.42 6.85 6.11 6.05",
        ),
        ("resnet18", 4.88): (
            "8.42 7.24 7.43 6.83 6.24 6.41",
            "7.18 6.44 6.69 6.84 6.34 6.25",
            "7.10 6.72 6.59 6.85 6.21 6.29",
        ),
        ("densenet121", 4.47): (
            "8.42 7.40 7.27 6.83 6.37 6.51",
            "7.18 6.73 6.70 6.84 6.57 6.81",
            "7.10 6.34 6.75 6.85 5.59 6.35",
        ),
    },
    "C-20K": {
        ("mobilenet_v2", 9.28): (
            "12.48 10.94 11.48 10.81 9.60 9.39",
            "11.33 10.10 10.01 11.00 9.63 9.19",
            "12.46 10.11 9.99 11.02 9.28 9.16",
        ),
        ("resnet18", 9.26): (
            "12.48 11.29 11.56 10.81 9.58 9.88",
            "11.33 10.28 10.39 11.00 9.83 9.86",
            "12.46 10.55 10.38 11.02 10.10 9.75",
        ),
        ("densenet121", 8.52): (
            "12.48 10.88 11.73 10.81 9.63 9.70",
            "11.33 10.36 10.23 11.00 9.97 9.94",
            "12.46 10.28 9.86 11.02 10.03 9.75",
        ),
    },
    "C-10K": {
        ("mobilenet_v2", 13.53): (
            "18.57 15.76 15.98 14.32 12.65 12.28",
            "17.50 14.03 14.96 13.90 12.53 12.69",
            "15.71 14.49 15.40 13.48 12.48 12.71",
        ),
        ("resnet18", 16.07): (
            "18.57 16.78 16.42 14.32 14.45 14.55",
            "17.50 15.54 15.27 13.90 14.29 14.26",
            "15.71 14.99 15.68 13.48 14.79 13.89",
        ),
        ("densenet121", 14.63): (
            "18.57 15.95 16.43 14.32 13.81 13.62",
            "17.50 14.81 14.86 13.90 13.66 13.80",
            "15.71 14.80 17.47 13.48 13.38 13.50",
        ),
    },
}
UDA: dict[str, dict[tuple[str, float], str]] = {
    "C-50K": {
        ("mobilenet_v2", 5.40): "8.18 6.18 5.68 7.11 5.12 5.49 8.62 6.32 6.18",
        ("resnet18", 5.28): "8.18 6.17 5.63 7.11 5.56 5.01 8.62 6.78 6.38",
        ("densenet121", 4.55): "8.18 6.56 5.32 7.11 5.26 4.94 8.62 6.26 6.29",
    },
    "C-20K": {
        ("mobilenet_v2", 9.25): "12.28 9.57 9.19 10.72 8.54 8.40 13.27 9.82 9.81",
        ("resnet18", 9.87): "12.28 10.04 9.30 10.72 9.09 9.04 13.27 10.15 9.85",
        ("densenet121", 8.54): "12.28 10.21 8.87 10.72 9.64 8.60 13.27 11.56 9.32",
    },
    "C-10K": {
        ("mobilenet_v2", 13.43): "18.61 15.14 12.54 16.76 12.97 12.23 22.45 14.46 12.92",
        ("resnet18", 14.18): "18.61 14.79 13.40 16.76 13.51 13.21 22.45 15.37 13.92",
        ("densenet121", 13.4): "18.61 14.86 12.80 16.76 13.13 12.25 22.45 14.93 12.97",
    },
}
SSKD = {
    "C-50K": (5.06, "7.59 5.82 5.63", "7.03 5.38 5.27"),
    "C-20K": (8.05, "11.17 8.80 8.53", "11.42 8.41 8.31"),
    "C-10K": (11.87, "16.05 12.60 12.33", "18.19 12.30 12.40"),
}
SETS = {"C-50K": (50_000, 0.9), "C-20K": (20_000, 0.6), "C-10K": (10_000, 0.7)}
SMALL = DataConfig(name="cifar10", num_train=1500)
FIRST_AUTHORS = partial(Authors, initial="pytorch", finetuned=False, burn_in=50_000, judged=1000)
UDA_AUTHORS = partial(FIRST_AUTHORS, nesterov=True)
SSKD_AUTHORS = partial(FIRST_AUTHORS, initial="published")
FORMS = {name: f"{name}_2021" for name in ("vgg11", "vgg13", "mobilenet_v2", "shufflenet_v2", "efficientnet_b0")}
WIDE_VIEWS: tuple[Augmentation, ...] = ("shift", "rotate", "scale", "flip", "colour")


def _select(rho: float) -> SelectConfig:
    return SelectConfig(rho=rho, filter="global", adjust="argmax", count=FAKES)


def _family(scarce: str) -> Family:
    return Family(
        kind="classification",
        full=partial(full, *SETS[scarce]),
        select=_select(SETS[scarce][1]),
        small=SMALL,
        authors=FIRST_AUTHORS(labels=10),
        forms=FORMS,
    )


def _with_sskd(recipe: Recipe, train: int, batch: int, weight_decay: float) -> Recipe:
    """`recipe` with the schedule of students of SSKD."""
    schedule = sgd(images=train + FAKES, batch=batch, lr=0.05, weight_decay=weight_decay, **SSKD_SCHEDULE)
    return replace(recipe, student=replace(recipe.student, **schedule))


def _sskd_protocol(protocol: str, batch: int, weight_decay: str) -> str:
    """`protocol` with the schedule of students of SSKD."""
    return protocol[: protocol.index(" for 350 epochs")] + (
        f" for 240 epochs from scratch; SGD, batches of {batch}, learning rate 0.05 (0.01 for ShuffleNetV2), divided "
        f"by 10 after epochs 150, 180 and 210, weight decay {weight_decay}, crop and flip."
    )


UDA_METHODS = (
    NOKD,
    row("BLKD+UDA", BLKD_LOSS, passes=True, augment=WIDE_VIEWS),
    row("cGAN-KD+BLKD+UDA", BLKD_LOSS, "adjusted", augment=WIDE_VIEWS),
)
SSKD_METHODS = (
    NOKD,
    row("SSKD", SSKD_LOSS, passes=True),
    row("cGAN-KD+SSKD", SSKD_LOSS, "adjusted", settings=("select.adjust=none",)),
)


def _of_set(scarce: str) -> list[PublishedTable]:
    """Tables of one training set."""
    name, family, protocol = scarce.replace("-", "").lower(), _family(scarce), _protocol(*SETS[scarce])
    split = (WHOLE, counted_before_split(350, 0.9)) if scarce == "C-50K" else (SCARCE,)
    deviations = (*split, *DEVIATIONS)
    pairs, lines = [], {}
    for (teacher, own), block in TABLE1[scarce].items():
        for student, line in zip(STUDENTS, block, strict=True):
            pairs.append(Pair(teacher=teacher, student=student, printed=own, assistant="vgg13"))
            lines[pairs[-1].name] = line
    table1 = PublishedTable(
        name=f"cifar10-{name}",
        title=f"CIFAR-10, {scarce}",
        source=f"{PAPER}, table 1",
        family=family,
        pairs=tuple(pairs),
        arms=METHODS,
        printed=by_pair(METHODS, lines),
        unit="top-1 error, %",
        protocol=protocol,
        deviations=(*deviations, _mean_over(10)),
        **_blkd(10),
    )
    pairs, lines = [], {}
    for (teacher, own), line in UDA[scarce].items():
        words = line.split()
        for number, student in enumerate(STUDENTS):
            pairs.append(Pair(teacher=teacher, student=student, printed=own))
            lines[pairs[-1].name] = " ".join(words[3 * number : 3 * number + 3])
    uda = replace(
        table1,
        name=f"cifar10-uda-{name}",
        title=f"CIFAR-10, {scarce}: with wider augmentation",
        source=f"{PAPER}, table 3",
        family=replace(family, authors=UDA_AUTHORS(labels=10)),
        pairs=tuple(pairs),
        arms=UDA_METHODS,
        printed=by_pair(UDA_METHODS, lines),
        deviations=(*deviations, *UDA_DEVIATIONS),
        authors_losses={},
    )
    own, *printed = SSKD[scarce]
    students = [Pair(teacher="resnet18", student=student, printed=own) for student in STUDENTS[:2]]
    sskd = replace(
        table1,
        name=f"cifar10-sskd-{name}",
        title=f"CIFAR-10, {scarce}: SSKD",
        source=f"{PAPER}, table 2",
        family=replace(
            family,
            full=lambda: _with_sskd(family.full(), SETS[scarce][0], 64, 5e-4),
            authors=SSKD_AUTHORS(labels=10),
            forms={},
            slow=("shufflenet_v2",),
        ),
        pairs=tuple(students),
        arms=SSKD_METHODS,
        printed=by_pair(SSKD_METHODS, {pair.name: str(line) for pair, line in zip(students, printed, strict=True)}),
        protocol=_sskd_protocol(protocol, 64, "5e-4"),
        deviations=(*deviations, *SSKD_DEVIATIONS),
        control_loss=SSKD_LOSS,
        authors_losses={},
    )
    return [table1, uda, sskd]


C10K_PAIRS = tuple(Pair(student=student) for student in STUDENTS)
COMPONENTS = (NOKD, RAW, SUBSAMPLED, FILTERED, ADJUSTED)
COUNTS = m_counts(1_000, 5_000, 10_000, 20_000, 30_000, 50_000, 70_000, 100_000, 150_000)
C10K = PublishedTable(
    name="c10k-components",
    title="CIFAR-10, C-10K: what each step adds",
    source=f"{PAPER}, ablation of components",
    family=_family("C-10K"),
    pairs=C10K_PAIRS,
    arms=COMPONENTS,
    printed=by_pair(
        COMPONENTS,
        {
            "vgg11": "18.57 16.36 16.10 14.39 14.32",
            "shufflenet_v2": "17.50 15.62 15.56 14.09 13.89",
            "efficientnet_b0": "15.71 15.06 14.84 13.63 13.48",
        },
    ),
    unit="top-1 error, %",
    protocol=_protocol(*SETS["C-10K"]) + " Rows add the steps one by one, at equal M^g.",
    deviations=(SCARCE, *DEVIATIONS),
    control_loss=BLKD_LOSS,
)
C10K_MG = replace(
    C10K,
    name="c10k-mg",
    title="CIFAR-10, C-10K: how many generated images",
    source=f"{PAPER}, ablation of M^g",
    arms=count_rows(COUNTS),
    counts=COUNTS,
    printed=by_pair(
        count_rows(COUNTS),
        {
            "vgg11": "18.57 18.48 17.6 16.45 16.55 15.15 14.74 14.66 14.32 14.33",
            "shufflenet_v2": "17.5 16.4 15.09 14.7 13.82 13.70 13.5 14.29 13.90 13.4",
            "efficientnet_b0": "15.71 15.24 15.66 14.42 14.34 13.21 13.50 13.92 13.48 13.53",
        },
    ),
    protocol=_protocol(*SETS["C-10K"]),
    deviations=(SCARCE, *DEVIATIONS, MG_DEVIATION),
)


# --- Tiny-ImageNet ------------------------------------------------------------------------------------------


def tiny_imagenet_full() -> Recipe:
    """Settings of CIFAR-10 with BigGAN at 64 pixels and rho 0.5."""
    recipe = full(98_179, 0.5)
    teacher = replace(recipe.teacher, model="densenet121_2021")
    return replace(recipe, data=DataConfig(name="tiny-imagenet"), teacher=teacher, gan=biggan_tiny_imagenet())


TINY_FORMS = {name: f"{name}_2021" for name in ("mobilenet_v2", "shufflenet_v2", "densenet121")}
TINY_FAMILY = Family(
    kind="classification",
    full=tiny_imagenet_full,
    select=_select(0.5),
    small=DataConfig(name="tiny-imagenet", size=32, classes=20, per_label=200),
    authors=FIRST_AUTHORS(labels=200),
    forms=TINY_FORMS,
)
TINY_DEVIATIONS = (WHOLE, counted_before_split(350, 0.9), *DEVIATIONS)
TINY_PROTOCOL = _protocol(98_179, 0.5).replace("10,000 test images", "10,000 validation images of the set, 64 pixels")
TINY_IMAGENET = PublishedTable(
    name="tiny-imagenet",
    title="Tiny-ImageNet",
    source=f"{PAPER}, tables 4 to 6",
    family=TINY_FAMILY,
    pairs=tuple(
        Pair(teacher="densenet121", student=student, assistant="mobilenet_v2") for student in ("vgg11", "shufflenet_v2")
    ),
    arms=METHODS,
    unit="top-1 error, %",
    protocol=TINY_PROTOCOL,
    deviations=(*TINY_DEVIATIONS, _mean_over(200)),
    note="Published numbers were not available.",
    **_blkd(200),
)
TINY_UDA = replace(
    TINY_IMAGENET,
    name="tiny-imagenet-uda",
    title="Tiny-ImageNet: with wider augmentation",
    family=replace(TINY_FAMILY, authors=UDA_AUTHORS(labels=200)),
    pairs=tuple(
        Pair(teacher=teacher, student=student)
        for teacher in ("resnet50", "densenet121")
        for student in ("vgg11", "shufflenet_v2")
    ),
    arms=UDA_METHODS,
    deviations=(*TINY_DEVIATIONS, *UDA_DEVIATIONS),
    authors_losses={},
)
TINY_SSKD = replace(
    TINY_IMAGENET,
    name="tiny-imagenet-sskd",
    title="Tiny-ImageNet: SSKD",
    family=replace(
        TINY_FAMILY,
        full=lambda: _with_sskd(tiny_imagenet_full(), 98_179, 32, 1e-4),
        authors=SSKD_AUTHORS(labels=200),
        forms={name: f"{name}_sskd" for name in ("vgg11", "shufflenet_v2")},
        slow=("shufflenet_v2",),
    ),
    pairs=tuple(Pair(teacher="resnet50", student=student) for student in ("vgg11", "shufflenet_v2")),
    arms=SSKD_METHODS,
    protocol=_sskd_protocol(TINY_PROTOCOL, 32, "1e-4"),
    deviations=(
        *TINY_DEVIATIONS,
        *SSKD_DEVIATIONS,
        "Initial weights of the teacher are PyTorch's; published is He's normal.",
    ),
    control_loss=SSKD_LOSS,
    authors_losses={},
)

TABLES = (
    *(table for scarce in SETS for table in _of_set(scarce)),
    *(C10K, C10K_MG, TINY_IMAGENET, TINY_UDA, TINY_SSKD),
)
