"""CIFAR-100: tables 3 to 5, components and M^g of cGAN-KD, and pairs for virtual knowledge distillation."""

from dataclasses import replace
from typing import Any

from gankd.recipes.arms import Arm
from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.recipes.published.table import (
    CGAN_KD,
    COMMON,
    EQUAL_UPDATES,
    FROM_SCRATCH,
    KD_EQUAL_UPDATES,
    NOKD,
    RATIO_DEVIATIONS,
    Authors,
    Closed,
    Family,
    Pair,
    PublishedTable,
    by_method,
    by_pair,
    counted_before_split,
    row,
    sgd,
)
from gankd.synthetic import SelectConfig
from gankd.training.gan_published import biggan_cifar
from gankd.training.ratio import published_ratio

PAPER = "Ding et al., Expert Systems with Applications 213 (2023) 119060, arXiv 2104.03164v5"
TRAIN, FAKES = 50_000, 100_000


def full() -> Recipe:
    """Published settings (section 8): 240 epochs of SGD, BigGAN, cDR-RS, rho 0.9, M^g = 100,000."""
    schedule: dict[str, Any] = {"epochs": 240, "lr": 0.05, "weight_decay": 5e-4, "drops": (150, 180, 210)}
    return Recipe(
        data=DataConfig(name="cifar100"),
        teacher=TeacherConfig(model="densenet121", **sgd(images=TRAIN, batch=64, **schedule)),
        gan=biggan_cifar(),
        ratio=replace(published_ratio(), features="classifier"),
        synth=SynthConfig(pool=250_000),
        student=StudentConfig(
            fake_share=FAKES / (TRAIN + FAKES),
            finetune_lr=0.01,
            **sgd(images=TRAIN + FAKES, batch=128, **schedule),
        ),
    )


FAMILY = Family(
    kind="classification",
    full=full,
    select=SelectConfig(rho=0.9, count=FAKES),
    small=DataConfig(name="cifar100", classes=20, per_label=200),
    slow=("mobilenet_v2_half", "shufflenet_v1", "shufflenet_v2"),
    authors=Authors(real_batch=0.5, labels=100, burn_in=5000, judged=600),
)
PROTOCOL = (
    "Top-1 accuracy on the 10,000 test images, last update. Students see 50,000 real and M^g = 100,000 generated "
    "images (BigGAN, cDR-RS, filtered by DenseNet-121 with rho = 0.9 per class) for 240 epochs; SGD with momentum 0.9, "
    "learning rate 0.05 (0.01 for MobileNetV2, ShuffleNetV1 and V2), divided by 10 after epochs 150, 180 and 210, "
    "weight decay 5e-4, crop and flip."
)
DEVIATIONS = (
    Closed(
        "A validation split, one image in ten, is carved out of the training images; published settings were fixed on "
        "test images."
    ),
    counted_before_split(240, 0.9),
    FROM_SCRATCH,
    "TAKD's assistants always start from scratch; published ones start from their NOKD weights, too.",
    Closed("Batch size 128 in every row; published rows without generated images have 64."),
    "Learning rates fall at the epoch named, not one epoch later.",
    "Rows without generated images see the real images for 240 epochs as published; the controls at equal updates and "
    "equal time are additions.",
    Closed(
        "Subsampling keeps the best half per class of a fixed pool (budget); the paper uses rejection with a running "
        "maximum (--set select.subsample=running_max)."
    ),
    "The filter reads plain images, in the paper augmented ones.",
    *COMMON,
    "Generated images keep the class they were generated for; the published scripts disagree about this.",
    "The density ratio reads pooled features of a small classifier; published features are as wide as images.",
    *RATIO_DEVIATIONS,
)
FEATURE_LOSSES = ("FitNet", "AT", "SP", "VID", "RKD", "PKT", "AB", "FT", "CRD")
BLKD_LOSS, TAKD_LOSS, SSKD_LOSS = (
    "0.1*Label + 0.9*KD(T=4)",
    "0.5*Label + 0.5*KD(T=10)",
    "0.1*Label + 0.9*KD(T=4) + SSKD",
)


def _loss(name: str) -> str:
    losses = {"BLKD": BLKD_LOSS, "TAKD": TAKD_LOSS, "SSKD": SSKD_LOSS, "ReviewKD": "Label + ReviewKD"}
    terms = {"FT": "200*FT(attention=True)"}  # the function of the published code, to which its weight belongs
    return losses.get(name, f"Label + KD(T=4) + {terms.get(name, name)}")


def taught(*names: str) -> tuple[Arm, ...]:
    """Rows of distillation losses at their published weights, on real images."""
    own = {"ReviewKD": ("student.nesterov=true",)}
    return tuple(row(name, _loss(name), passes=True, settings=own.get(name, ())) for name in names)


def taught_on_fakes(*names: str) -> tuple[Arm, ...]:
    """Rows of distillation losses on real and generated images."""
    return tuple(row(f"cGAN-KD+{name}", _loss(name), "adjusted") for name in names)


STUDENTS = (
    *("mobilenet_v2_half", "resnet20", "vgg8", "wrn_40_1"),
    *("shufflenet_v1", "resnet8x4", "shufflenet_v2", "wrn_16_2"),
)
TABLE3_PAIRS = tuple(Pair(student=name) for name in STUDENTS)
TABLE3 = PublishedTable(
    name="cifar100-table3",
    title="CIFAR-100: cGAN-KD without other losses",
    source=f"{PAPER}, table 3",
    family=FAMILY,
    pairs=TABLE3_PAIRS,
    arms=(NOKD, CGAN_KD),
    printed=by_method(
        TABLE3_PAIRS,
        {
            "NOKD": "64.78 68.83 70.11 71.35 71.42 72.77 72.80 73.02",
            "cGAN-KD": "68.42 70.61 72.35 73.45 74.89 72.83 75.45 73.98",
        },
    ),
    protocol=PROTOCOL,
    deviations=DEVIATIONS,
)

ON_FAKES = ("BLKD", "FitNet", "VID", "RKD", "CRD", "SSKD")
METHODS = (
    NOKD,
    *taught("BLKD", "TAKD", *FEATURE_LOSSES, "SSKD", "ReviewKD"),
    *taught_on_fakes(*ON_FAKES),
)
SSKD_DEVIATION = (
    "SSKD turns one batch of upright images three times. The published cGAN-KD+SSKD starts from the SSKD student and "
    "has weight decay 1e-4; here it has that of the other rows."
)
TABLE4_PAIRS = (
    Pair(teacher="resnet110", student="resnet20", printed=73.27, assistant="resnet56"),
    Pair(teacher="resnet32x4", student="resnet20", printed=79.11, assistant="resnet110"),
    Pair(teacher="vgg13", student="vgg8", printed=74.85, assistant="vgg11"),
    Pair(teacher="vgg19", student="vgg8", printed=73.88, assistant="vgg11"),
    Pair(teacher="wrn_40_2", student="wrn_40_1", printed=75.82, assistant="wrn_16_2"),
    Pair(teacher="resnet32x4", student="resnet8x4", printed=79.11, assistant="resnet110"),
)
TABLE4 = PublishedTable(
    name="cifar100-table4",
    title="CIFAR-100: losses and cGAN-KD, teacher and student of one family",
    source=f"{PAPER}, table 4",
    family=FAMILY,
    pairs=TABLE4_PAIRS,
    arms=METHODS,
    printed=by_method(
        TABLE4_PAIRS,
        {
            "NOKD": "68.83 68.83 70.11 70.11 71.35 72.77",
            "BLKD": "70.39 69.02 72.91 71.81 73.71 73.25",
            "TAKD": "71.06 70.20 72.98 71.77 74.10 72.94",
            "FitNet": "69.70 69.58 73.60 71.83 73.80 74.94",
            "AT": "71.20 70.47 73.63 70.93 74.17 74.64",
            "SP": "70.59 69.64 73.37 71.35 73.77 74.16",
            "VID": "70.56 69.81 73.69 72.07 74.23 74.67",
            "RKD": "70.37 69.79 73.44 72.23 73.72 74.03",
            "PKT": "70.94 69.46 73.63 72.28 73.69 74.70",
            "AB": "70.57 69.94 73.36 71.78 74.15 74.36",
            "FT": "70.94 70.30 72.58 71.85 73.74 74.96",
            "CRD": "71.16 70.14 73.60 72.72 74.13 75.15",
            "SSKD": "70.96 71.32 74.26 73.15 75.64 75.53",
            "ReviewKD": "70.80 NA NA NA 75.20 76.00",
            "cGAN-KD+BLKD": "71.29 70.55 74.34 73.72 75.35 73.80",
            "cGAN-KD+FitNet": "71.01 71.54 74.66 73.72 75.32 74.52",
            "cGAN-KD+VID": "70.38 70.99 74.72 74.06 75.22 74.41",
            "cGAN-KD+RKD": "71.56 71.01 74.34 73.64 75.27 74.55",
            "cGAN-KD+CRD": "72.25 71.47 75.04 73.99 75.70 75.40",
            "cGAN-KD+SSKD": "71.63 72.01 74.79 73.74 75.65 76.38",
        },
    ),
    protocol=PROTOCOL + " Other losses are added with their published weights to the label loss and KD at T = 4.",
    deviations=(*DEVIATIONS, SSKD_DEVIATION, "The assistant of ResNet110 is not published; here it is ResNet56."),
)

W, R, R50 = ("wrn_40_2", 75.82), ("resnet32x4", 79.11), ("resnet50", 79.51)
TABLE5_PAIRS = tuple(
    Pair(teacher=teacher, student=student, printed=printed, assistant=assistant)
    for (teacher, printed), student, assistant in (
        (W, "mobilenet_v2_half", "vgg8"),
        (W, "vgg8", "resnet8x4"),
        (R, "mobilenet_v2_half", "vgg11"),
        (R, "vgg8", "vgg13"),
        (R, "shufflenet_v1", "wrn_40_2"),
        (R, "shufflenet_v2", "wrn_40_2"),
        (R50, "mobilenet_v2_half", "resnet56"),
        (R50, "vgg8", "vgg13"),
        (R50, "shufflenet_v1", "wrn_40_2"),
    )
)
TABLE5 = PublishedTable(
    name="cifar100-table5",
    title="CIFAR-100: losses and cGAN-KD, teacher and student of different families",
    source=f"{PAPER}, table 5",
    family=FAMILY,
    pairs=TABLE5_PAIRS,
    arms=METHODS,
    printed=by_method(
        TABLE5_PAIRS,
        {
            "NOKD": "64.78 70.11 64.78 70.11 71.42 72.80 64.78 70.11 71.42",
            "BLKD": "68.25 73.25 66.95 72.73 73.91 74.56 67.75 73.31 75.46",
            "TAKD": "68.96 74.02 67.54 72.33 74.82 74.84 68.48 73.42 75.14",
            "FitNet": "68.65 73.49 67.60 73.30 75.75 76.26 68.33 73.15 75.25",
            "AT": "68.73 73.26 66.73 72.04 75.90 76.30 66.37 73.84 75.97",
            "SP": "66.71 73.22 66.72 72.94 75.32 75.47 68.76 73.42 76.22",
            "VID": "67.64 73.85 65.93 73.17 75.48 75.37 68.51 73.45 75.83",
            "RKD": "68.64 73.24 67.18 72.23 74.49 75.54 67.56 73.61 75.43",
            "PKT": "68.00 73.39 68.40 73.17 74.55 75.74 68.71 73.87 75.64",
            "AB": "NA NA NA NA 75.62 76.02 67.52 73.32 NA",
            "FT": "65.64 73.98 64.66 73.04 75.55 76.25 68.05 72.93 76.36",
            "CRD": "70.00 74.31 68.76 74.20 75.76 75.79 68.43 74.35 76.72",
            "SSKD": "71.69 75.45 71.22 75.64 78.04 78.46 71.43 75.64 77.55",
            "ReviewKD": "NA NA NA NA 77.20 77.65 NA NA NA",
            "cGAN-KD+BLKD": "70.51 74.55 69.80 74.12 76.34 77.05 70.50 74.84 76.85",
            "cGAN-KD+FitNet": "70.64 74.54 69.74 75.01 77.23 77.32 70.83 75.06 76.95",
            "cGAN-KD+VID": "69.74 74.48 69.64 74.51 76.85 77.48 70.68 75.50 77.04",
            "cGAN-KD+RKD": "70.83 74.66 70.12 73.98 76.30 77.24 70.96 75.12 76.68",
            "cGAN-KD+CRD": "71.58 75.22 70.68 75.31 77.22 77.39 71.26 75.22 77.37",
            "cGAN-KD+SSKD": "72.23 75.54 72.74 76.97 78.63 78.92 72.69 76.14 78.05",
        },
    ),
    protocol=PROTOCOL + " Other losses are added with their published weights to the label loss and KD at T = 4.",
    deviations=(*DEVIATIONS, SSKD_DEVIATION),
)

DENSENET_PAIRS = tuple(
    Pair(teacher="densenet121", student=student, printed=79.98, assistant=assistant)
    for student, assistant in {
        "mobilenet_v2_half": "resnet56",
        "resnet20": "vgg13",
        "vgg8": "vgg13",
        "resnet8x4": "wrn_40_2",
        "shufflenet_v1": "wrn_40_2",
        "shufflenet_v2": "wrn_40_2",
    }.items()
)
TABLE5_DENSENET = PublishedTable(
    name="cifar100-table5-densenet",
    title="CIFAR-100: teacher DenseNet-121, on which losses on features do not work",
    source=f"{PAPER}, table 5, teacher DenseNet-121",
    family=FAMILY,
    pairs=DENSENET_PAIRS,
    arms=(NOKD, *taught("BLKD", "TAKD"), *taught_on_fakes("BLKD")),
    printed=by_method(
        DENSENET_PAIRS,
        {
            "NOKD": "64.78 68.83 70.11 72.77 71.42 72.80",
            "BLKD": "68.10 70.17 73.41 74.54 75.77 76.58",
            "TAKD": "68.23 70.27 73.49 74.23 75.69 76.04",
            "cGAN-KD+BLKD": "71.02 71.17 75.38 74.54 77.36 78.04",
        },
    ),
    protocol=PROTOCOL,
    deviations=DEVIATIONS,
)

ABLATION_PAIRS = tuple(Pair(student=name) for name in ("mobilenet_v2_half", "vgg8", "shufflenet_v1", "shufflenet_v2"))
RAW, SUBSAMPLED = row("raw", images="raw"), row("subsampled", images="subsampled")
FILTERED, ADJUSTED = row("filtered", images="filtered"), row("adjusted", images="adjusted")
COMPONENT_METHODS = (NOKD, RAW, SUBSAMPLED, FILTERED)
MEASURED = "Printed numbers were read off a plot, to about 0.02."
COMPONENTS = PublishedTable(
    name="cifar100-components",
    title="CIFAR-100: what each step adds",
    source=f"{PAPER}, plot of components",
    family=FAMILY,
    pairs=ABLATION_PAIRS,
    arms=COMPONENT_METHODS,
    printed=by_pair(
        COMPONENT_METHODS,
        {
            "mobilenet_v2_half": "35.22 34.71 32.27 31.58",
            "vgg8": "29.89 30.99 28.48 27.65",
            "shufflenet_v1": "28.58 28.36 26.51 25.11",
            "shufflenet_v2": "27.20 26.96 25.20 24.55",
        },
    ),
    unit="top-1 error, %",
    protocol=PROTOCOL + " Rows add the steps one by one, at equal M^g.",
    deviations=DEVIATIONS,
    note=MEASURED,
)


def m_counts(*numbers: int) -> dict[str, int]:
    """M^g by the title of its row."""
    return {f"M={number}": number for number in numbers}


def count_rows(counts: dict[str, int]) -> tuple[Arm, ...]:
    """A row per M^g, after the one with real images only."""
    return NOKD, *(row(title, images="adjusted") for title in counts)


MG_COUNTS = m_counts(5_000, 10_000, 20_000, 50_000, 70_000, 100_000, 130_000, 150_000)
MG_DEVIATION = (
    "Every M^g has as many updates as the main table; in the paper the number of epochs is equal. The share of "
    "generated images in a batch is M^g / (N^r + M^g), as published."
)
MG = PublishedTable(
    name="cifar100-mg",
    title="CIFAR-100: how many generated images",
    source=f"{PAPER}, plot of M^g",
    family=FAMILY,
    pairs=ABLATION_PAIRS,
    arms=count_rows(MG_COUNTS),
    counts=MG_COUNTS,
    printed=by_pair(
        count_rows(MG_COUNTS),
        {
            "mobilenet_v2_half": "35.21 34.52 34.35 33.53 32.85 32.18 31.59 31.15 31.52",
            "vgg8": "29.88 29.20 29.67 29.30 28.43 28.54 27.65 27.52 27.83",
            "shufflenet_v1": "28.58 28.29 27.92 27.30 26.45 26.03 25.12 24.95 25.48",
            "shufflenet_v2": "27.19 26.66 26.69 25.64 25.03 24.90 24.55 24.73 24.37",
        },
    ),
    unit="top-1 error, %",
    protocol=PROTOCOL,
    deviations=(*DEVIATIONS, MG_DEVIATION),
    note=MEASURED,
)


# --- virtual knowledge distillation -------------------------------------------------------------------------


def vkd_full() -> Recipe:
    """240 epochs on real images only, batches of 64; each pair's teacher is the teacher of its run."""
    recipe = full()
    return replace(recipe, student=replace(recipe.student, batch_size=64, updates=recipe.teacher.updates))


VKD_LOSS = "0.4*Label + 0.6*SoftTargets(T=4)@{}"
VKD_SOURCES = {"VKD": "virtual", "table": "table", "bank": "bank", "Gaussian": "gauss", "even": "smooth", "Tf-KD": "tf"}
VKD_METHODS = (
    row("CRD", "Label + CRD"),
    *(row(title, VKD_LOSS.format(source)) for title, source in VKD_SOURCES.items()),
    row("label smoothing", "LS(epsilon=0.1)"),
)
VKD_LINES = {
    ("wrn_40_2", "wrn_16_2", 75.61): "73.26 74.92 75.48",
    ("wrn_40_2", "wrn_40_1", 75.61): "71.98 73.54 74.14",
    ("resnet56", "resnet20", 72.34): "69.06 70.66 71.16",
    ("resnet110", "resnet20", 74.31): "69.06 70.67 71.46",
    ("resnet110", "resnet32", 74.31): "71.14 73.08 73.48",
    ("resnet32x4", "resnet8x4", 79.42): "72.50 73.33 75.51",
    ("vgg13", "vgg8", 74.64): "70.36 72.98 73.94",
    ("resnet32x4", "shufflenet_v2", 79.42): "71.82 74.45 75.65",
    ("wrn_40_2", "shufflenet_v1", 75.61): "70.50 74.83 76.05",
    ("vgg13", "mobilenet_v2_half", 74.64): "64.60 67.37 69.73",
}
VKD_PAIRS = tuple(Pair(teacher=teacher, student=student, printed=own) for teacher, student, own in VKD_LINES)
VKD = PublishedTable(
    name="vkd-pairs",
    title="CIFAR-100: virtual knowledge distillation, reconstructed",
    source="no numbers of VKD were available; pairs and other numbers: RepDistiller (Tian et al., ICLR 2020)",
    family=replace(FAMILY, full=vkd_full, authors=Authors(finetuned=False, labels=100, burn_in=5000)),
    pairs=VKD_PAIRS,
    arms=VKD_METHODS,
    printed=by_pair(
        (EQUAL_UPDATES, row(KD_EQUAL_UPDATES), VKD_METHODS[0]),
        {pair.name: line for pair, line in zip(VKD_PAIRS, VKD_LINES.values(), strict=True)},
    ),
    protocol=(
        "Top-1 accuracy on the 10,000 test images, last update. 240 epochs of SGD with momentum 0.9, batches of 64, "
        "learning rate 0.05 (0.01 for mobile networks), divided by 10 after epochs 150, 180 and 210, weight decay "
        "5e-4, crop and flip; equal updates in every row."
    ),
    deviations=(
        *DEVIATIONS[:2],
        "The pairs and data of the paper are not known; VKD is reconstructed from its abstract.",
        "Every source of soft targets has weight 0.6 at T = 4; gankd vkd table tunes each on validation images.",
    ),
    note="No published numbers of VKD; those of KD and CRD are RepDistiller's.",
    filters=False,
)

TABLES = (TABLE3, TABLE4, TABLE5, TABLE5_DENSENET, COMPONENTS, MG, VKD)
