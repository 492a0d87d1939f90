"""Scalar labels: Steering Angle and UTKFace (table 7 of cGAN-KD), RC-49 (table 7 of its first version), ablations."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.recipes.published.cifar100 import (
    ADJUSTED,
    FILTERED,
    MG_DEVIATION,
    PAPER,
    RAW,
    SUBSAMPLED,
    count_rows,
    m_counts,
)
from gankd.recipes.published.table import (
    CGAN_KD,
    COMMON,
    FROM_SCRATCH,
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
from gankd.tasks import LabelSampling
from gankd.training.gan import GanConfig
from gankd.training.gan_published import sagan_steering, sagan_utkface, sagan_utkface_2021, sngan_rc49
from gankd.training.ratio import RatioConfig, published_ratio

FIRST = "Ding et al., arXiv 2104.03164v1 and v2"
RATIO = replace(published_ratio((1024, 512, 256, 128, 64)), features="autoencoder")
RATIO_FIRST = replace(
    published_ratio(epochs=350, drops=(100, 200)), features="autoencoder", penalty=1e-3, weight_decay=0.0
)
"""Density ratio of the first version."""


def full(
    *,
    data: DataConfig,
    train: int,
    fakes: int,
    rho: float,
    teacher: str,
    gan: GanConfig,
    labels: LabelSampling = "uniform",
    flip: bool = False,
    weight_decay: float = 5e-4,
    ratio: RatioConfig = RATIO,
) -> Recipe:
    """Published: 350 epochs of SGD on squared error, CcGAN, cDR-RS on an auto-encoder, labels from the teacher."""
    schedule: dict[str, Any] = {"epochs": 350, "lr": 0.01, "drops": (150, 250), "batch": 128, "crop": False}
    schedule |= {"weight_decay": weight_decay, "flip": flip}
    return Recipe(
        data=data,
        teacher=TeacherConfig(model=teacher, **sgd(images=train, **schedule)),
        gan=gan,
        ratio=ratio,
        synth=SynthConfig(pool=round(2.2 * fakes / rho), labels=labels),
        student=StudentConfig(fake_share=fakes / (train + fakes), **sgd(images=train + fakes, **schedule)),
    )


DEVIATIONS = (
    Closed("A validation split is carved out of the training images; published settings were fixed on test images."),
    Closed(
        "Subsampling keeps the best half of each of 12 ranges of labels of a fixed pool (budget), and M^g images are "
        "taken evenly over these; the paper uses rejection with a running maximum for each label, and a random choice."
    ),
    *COMMON,
    "ILI's networks are smaller and trained by AdamW for 10,000 updates, in the paper by SGD for hundreds of epochs.",
    "A student with a distillation loss on real images is an additional control; the paper has only NOKD for values.",
    "Outputs are linear; published networks end in a ReLU, and their predictions are clipped to the label range.",
    "The auto-encoder of the density ratio is small and trained by Adam; the published code is as wide as images.",
    *RATIO_DEVIATIONS,
)
CONTROL_LOSS = "0.5*Label + 0.5*KD"


def _protocol(real: str, fakes: int, filter_: str, rho: float, gan: str, weight_decay: str) -> str:
    return (
        f"Mean absolute error on test images in label units, last update, 64 pixels. Students see {real} real and "
        f"M^g = {fakes:,} generated images ({gan}, density ratio on an auto-encoder, filtered by {filter_} with "
        f"rho = {rho} over all labels, labels replaced by its predictions) for 350 epochs; SGD with momentum 0.9, "
        f"batches of 128, learning rate 0.01, divided by 10 after epochs 150 and 250, weight decay {weight_decay}."
    )


def _table(**settings: Any) -> PublishedTable:
    return PublishedTable(control_loss=CONTROL_LOSS, **settings)


def _students(lines: Mapping[str, object]) -> tuple[Pair, ...]:
    return tuple(Pair(student=name) for name in lines)


# --- Steering Angle -----------------------------------------------------------------------------------------

STEERING_FULL = partial(
    full,
    data=DataConfig(name="steering", size=64),
    train=9_800,
    fakes=50_000,
    rho=0.7,
    teacher="vgg19+mlp",
    gan=sagan_steering(),
)
STEERING_FAMILY = Family(
    kind="regression",
    authors=Authors(labels=2000, burn_in=500),
    head="+mlp",
    full=STEERING_FULL,
    select=SelectConfig(rho=0.7, count=50_000),
    small=DataConfig(name="steering", size=32, num_train=1500),
)
STEERING_LINES = {
    "resnet20": "5.51 1.60",
    "mobilenet_v2": "4.86 2.32",
    "wrn_16_1": "4.83 1.82",
    "resnet8x4": "3.97 2.14",
    "wrn_40_1": "3.87 1.48",
    "shufflenet_v1": "3.67 2.20",
    "resnet56": "2.68 1.55",
}
PASSES = "Batches are passes over shuffled images, in the paper drawn with replacement."
STEERING_DEVIATIONS = (
    *DEVIATIONS,
    PASSES,
    "Generated images have the angles of the training images, in the paper 2,000 angles at equal distances; the "
    "vicinity follows the largest gap between training angles.",
    FROM_SCRATCH,
    "The size of the published training set is not printed; updates are counted over 9,800 real images, including the "
    "frames left out between splits.",
)
STEERING = _table(
    name="steering-table7",
    title="Steering Angle: cGAN-KD",
    source=f"{PAPER}, table 7",
    family=STEERING_FAMILY,
    pairs=_students(STEERING_LINES),
    arms=(NOKD, CGAN_KD),
    printed=by_pair((NOKD, CGAN_KD), STEERING_LINES),
    unit="MAE, degrees",
    protocol=_protocol("about 9,800", 50_000, "VGG-19", 0.7, "SAGAN, SVDL + ILI", "5e-4"),
    deviations=STEERING_DEVIATIONS,
)
STEPS = (NOKD, RAW, SUBSAMPLED, FILTERED, ADJUSTED)
STEERING_STEPS = {
    "resnet20": "5.51 2.22 2.11 1.93 1.60",
    "wrn_16_1": "4.83 2.50 2.34 2.22 1.82",
    "resnet8x4": "3.97 2.85 2.75 2.50 2.14",
    "resnet56": "2.68 2.15 1.89 1.83 1.55",
}
STEERING_COMPONENTS = replace(
    STEERING,
    name="steering-components",
    title="Steering Angle: what each step adds",
    source=f"{PAPER}, plot of components",
    pairs=_students(STEERING_STEPS),
    arms=STEPS,
    printed=by_pair(STEPS, STEERING_STEPS),
    protocol=STEERING.protocol + " Rows add the steps one by one, at equal M^g.",
    note="Printed numbers were read off a plot, to about 0.02.",
)
STEERING_COUNTS = m_counts(1_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000)
STEERING_MG_LINES = {
    "resnet20": "5.51 4.33 3.62 3.21 2.54 1.95 1.65 1.60 1.63 1.67",
    "wrn_16_1": "4.83 3.64 3.13 2.82 2.48 2.04 1.83 1.82 1.85 1.82",
    "resnet8x4": "3.97 3.08 2.70 2.53 2.15 2.18 2.19 2.14 2.18 2.22",
    "resnet56": "2.68 1.78 1.65 1.53 1.53 1.46 1.45 1.55 1.56 1.55",
}
STEERING_MG = replace(
    STEERING_COMPONENTS,
    name="steering-mg",
    title="Steering Angle: how many generated images",
    source=f"{PAPER}, plot of M^g",
    arms=count_rows(STEERING_COUNTS),
    counts=STEERING_COUNTS,
    printed=by_pair(count_rows(STEERING_COUNTS), STEERING_MG_LINES),
    protocol=STEERING.protocol,
    deviations=(*STEERING_DEVIATIONS, MG_DEVIATION),
)

# --- UTKFace ------------------------------------------------------------------------------------------------

UTKFACE_LINES = {
    "wrn_16_1": "7.25 5.01",
    "mobilenet_v2": "7.16 4.84",
    "resnet56": "7.06 4.90",
    "shufflenet_v1": "7.03 4.95",
    "resnet20": "6.87 4.92",
    "wrn_40_1": "6.70 4.92",
}
UTKFACE_FULL = partial(
    full,
    data=DataConfig(name="utkface", size=64),
    train=11_808,
    fakes=60_000,
    rho=0.7,
    teacher="vgg11+mlp",
    gan=sagan_utkface(),
    labels="balanced",
    flip=True,
)
UTKFACE_FAMILY = Family(
    kind="regression",
    authors=Authors(labels=60, burn_in=100),
    head="+mlp",
    full=UTKFACE_FULL,
    select=SelectConfig(rho=0.7, count=60_000),
    small=DataConfig(name="utkface", size=32, num_train=2000),
)
VICINITY = (
    "Labels are scaled to [0, 1] from the youngest to the oldest age, in the paper divided by the oldest: the vicinity "
    "is 1.7 % wider."
)
AGE_DEVIATIONS = (
    *DEVIATIONS,
    PASSES,
    counted_before_split(350, 7 / 8),
    VICINITY,
    "Ages and predictions stay float; the published code floors predictions, labels and the filter's errors.",
)
NO_NUMBERS = "Published numbers were not available."
UTKFACE = _table(
    name="utkface-table7",
    title="UTKFace: cGAN-KD",
    source=f"{PAPER}, table 7",
    family=UTKFACE_FAMILY,
    pairs=_students(UTKFACE_LINES),
    arms=(NOKD, CGAN_KD),
    printed=by_pair((NOKD, CGAN_KD), UTKFACE_LINES),
    unit="MAE, years",
    protocol=_protocol("11,808", 60_000, "VGG-11", 0.7, "SAGAN, SVDL + ILI", "5e-4") + " Faces are flipped.",
    deviations=(
        *AGE_DEVIATIONS,
        FROM_SCRATCH,
        "The filter is VGG-11, as in the published scripts; the table's caption says VGG-13.",
    ),
)
UTKFACE_COMPONENTS = replace(
    UTKFACE,
    name="utkface-components",
    title="UTKFace: what each step adds",
    source=f"{PAPER}, ablation of components; rows as in the authors' scripts",
    arms=(
        *STEPS,
        *(row(f"{arm.title}, rho=0.9", images=arm.images, settings=("select.rho=0.9",)) for arm in STEPS[-2:]),
    ),
    printed={},
    protocol=UTKFACE.protocol + " Rows add the steps one by one, at equal M^g.",
    note=NO_NUMBERS,
)
UTKFACE_COUNTS = m_counts(1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000)
UTKFACE_MG = replace(
    UTKFACE,
    name="utkface-mg",
    title="UTKFace: how many generated images",
    source=f"{PAPER}, ablation of M^g; rows as in the authors' scripts",
    family=replace(
        UTKFACE_FAMILY,
        full=partial(UTKFACE_FULL, rho=0.9),
        select=SelectConfig(rho=0.9, count=60_000),
    ),
    arms=count_rows(UTKFACE_COUNTS),
    counts=UTKFACE_COUNTS,
    printed={},
    protocol=_protocol("11,808", 60_000, "VGG-11", 0.9, "SAGAN, SVDL + ILI", "5e-4") + " Faces are flipped.",
    deviations=(
        *UTKFACE.deviations,
        MG_DEVIATION,
        "ResNet20, ResNet56 and WRN16x1 are trained for 350 epochs; published are 240 for these three.",
    ),
    note=NO_NUMBERS,
)


def _filtered_by(table: PublishedTable, settings: partial[Recipe], name: str, rho: float) -> PublishedTable:
    """Ablation of the filtering network: `table`, whose published settings are `settings`, with another one."""
    family, count = table.family, table.family.select.count
    shown = f"{name} with rho = {rho}"
    return replace(
        table,
        name=f"{table.name.partition('-')[0]}-filter-{name}",
        title=f"{table.title}, filtered by {name}",
        source=f"{PAPER}, ablation of the filtering teacher; rows as in the authors' scripts",
        family=replace(
            family,
            full=partial(settings, teacher=f"{name}+mlp", rho=rho),
            select=SelectConfig(rho=rho, count=count),
        ),
        printed={},
        protocol=re.sub(r"VGG-\d+ with rho = [\d.]+", shown, table.protocol),
        deviations=tuple(text for text in table.deviations if not text.startswith("The filter is")),
        note=NO_NUMBERS,
    )


FILTERS = (
    *(_filtered_by(STEERING, STEERING_FULL, name, 0.7) for name in ("vgg8", "resnet18")),
    *(_filtered_by(UTKFACE, UTKFACE_FULL, name, 0.9) for name in ("resnet32x4", "densenet121")),
)

# --- RC-49, first version -----------------------------------------------------------------------------------

FIRST_FORMS = {name: f"{name}_rc49" for name in ("shufflenet_v2", "efficientnet_b0")}
NO_BRANCH = "The auto-encoder of the density ratio also learns the label; the published one of this version does not."
RC49_RHO = {25: 0.5, 15: 0.8, 5: 0.9}
RC49_OWN = {25: 0.20, 15: 0.31, 5: 0.49}
RC49_LINES = {
    25: {"shufflenet_v2": "0.52 0.34", "mobilenet_v2": "0.55 0.39", "efficientnet_b0": "0.99 0.57"},
    15: {"shufflenet_v2": "0.76 0.40", "mobilenet_v2": "0.95 0.48", "efficientnet_b0": "1.00 0.69"},
    5: {"shufflenet_v2": "1.95 0.95", "mobilenet_v2": "1.74 1.18", "efficientnet_b0": "1.86 1.15"},
}


RC49_DEVIATIONS = (
    *DEVIATIONS,
    Closed("One chair in eight is used for validation; its images are among those of the published count."),
    "Generated images have the 450 angles of the training images, in the paper all 899.",
    counted_before_split(350, 43 / 49),
    "The density ratio pairs a real image with generated ones of the nearest angles; in the paper, of its own angle.",
    NO_BRANCH,
)


def _rc49(images: int) -> PublishedTable:
    rho, lines = RC49_RHO[images], RC49_LINES[images]
    return _table(
        name=f"rc49-r{images}",
        title=f"RC-49 with {images} images per angle: cGAN-KD",
        source=f"{FIRST}, table 7",
        family=Family(
            kind="regression",
            authors=Authors(finetuned=False, labels=450, burn_in=200, judged=1000),
            head="+mlp128",
            forms=FIRST_FORMS,
            full=partial(
                full,
                data=DataConfig(name="rc49", size=64, per_label=images),
                train=450 * images,
                fakes=50_000,
                rho=rho,
                teacher="vgg16+mlp128",
                gan=sngan_rc49(),
                weight_decay=1e-4,
                ratio=RATIO_FIRST,
            ),
            select=SelectConfig(rho=rho, count=50_000),
            small=DataConfig(name="rc49", size=32, per_label=5),
        ),
        pairs=_students(lines),
        arms=(NOKD, CGAN_KD),
        printed=by_pair((NOKD, CGAN_KD), lines),
        unit="MAE, degrees",
        protocol=_protocol(
            f"{450 * images:,}", 50_000, f"VGG-16 (MAE {RC49_OWN[images]:.2f})", rho, "SNGAN, SVDL", "1e-4"
        ),
        deviations=RC49_DEVIATIONS,
    )


R25, R15, R5 = (_rc49(images) for images in (25, 15, 5))

# --- UTKFace, first version -----------------------------------------------------------------------------------

UTKFACE_2021 = _table(
    name="utkface-table8",
    title="UTKFace: cGAN-KD, first version",
    source=f"{FIRST}, table 8",
    family=Family(
        kind="regression",
        authors=Authors(finetuned=False, labels=60, burn_in=5000, judged=1000),
        head="+mlp128",
        forms=FIRST_FORMS,
        full=partial(
            full,
            data=DataConfig(name="utkface", size=64),
            train=15_149,
            fakes=80_000,
            rho=0.7,
            teacher="vgg16+mlp128",
            gan=sagan_utkface_2021(),
            labels="balanced",
            flip=True,
            weight_decay=1e-4,
            ratio=RATIO_FIRST,
        ),
        select=SelectConfig(rho=0.7, count=80_000),
        small=DataConfig(name="utkface", size=32, num_train=2000),
    ),
    pairs=_students(RC49_LINES[5]),
    arms=(NOKD, CGAN_KD),
    printed={},
    unit="MAE, years",
    protocol=_protocol("15,149", 80_000, "VGG-16", 0.7, "SAGAN, SVDL + ILI", "1e-4") + " Faces are flipped.",
    deviations=(
        *DEVIATIONS,
        "Rare ages keep their images once; the published training set repeats some until each age has 200. Updates are "
        "counted over its 15,149 images.",
        VICINITY,
        NO_BRANCH,
    ),
    note=NO_NUMBERS,
)

RC49_STEPS = {
    "shufflenet_v2": "1.95 1.22 1.14 1.12 0.95",
    "mobilenet_v2": "1.74 1.22 1.38 1.35 1.18",
    "efficientnet_b0": "1.86 1.42 1.36 1.35 1.15",
}
RC49_COMPONENTS = replace(
    R5,
    name="rc49-components",
    title="RC-49, R-5: what each step adds",
    source=f"{FIRST}, ablation of components",
    arms=STEPS,
    printed=by_pair(STEPS, RC49_STEPS),
    protocol=R5.protocol + " Rows add the steps one by one, at equal M^g.",
)
RC49_COUNTS = m_counts(1_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000, 80_000)
RC49_MG = replace(
    R5,
    name="rc49-mg",
    title="RC-49, R-5: how many generated images",
    source=f"{FIRST}, ablation of M^g",
    arms=count_rows(RC49_COUNTS),
    counts=RC49_COUNTS,
    printed=by_pair(
        count_rows(RC49_COUNTS),
        {
            "shufflenet_v2": "1.95 1.67 1.36 1.25 1.19 .92 .88 .97 .85 .93 .89",
            "mobilenet_v2": "1.74 2.03 1.43 1.36 1.41 1.24 1.16 1.27 1.01 .97 1.04",
            "efficientnet_b0": "1.86 1.86 1.39 1.28 1.38 1.05 1.08 1.10 .95 1.02 1.05",
        },
    ),
    deviations=(*RC49_DEVIATIONS, MG_DEVIATION),
)

TABLES = (
    *(STEERING, UTKFACE, R25, R15, R5, UTKFACE_2021),
    *(STEERING_COMPONENTS, STEERING_MG, UTKFACE_COMPONENTS, UTKFACE_MG, RC49_COMPONENTS, RC49_MG),
    *FILTERS,
)
