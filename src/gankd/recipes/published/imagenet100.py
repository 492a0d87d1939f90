"""ImageNet-100 at 128 pixels: tables 3 and 6 of cGAN-KD."""

from dataclasses import replace
from typing import Any

from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.recipes.published import cifar100
from gankd.recipes.published.cifar100 import PAPER, taught, taught_on_fakes
from gankd.recipes.published.table import CGAN_KD, NOKD, Authors, Family, Pair, PublishedTable, by_method, sgd
from gankd.synthetic import SelectConfig
from gankd.training.gan_published import biggan_deep_imagenet100
from gankd.training.ratio import published_ratio

TRAIN, FAKES = 117_000, 100_000
"""The size of the published training set is not printed: about 127,000 images of 100 classes minus 10,000."""


def full() -> Recipe:
    """Published settings: 240 epochs of SGD, BigGAN-deep, cDR-RS, rho 0.9, M^g = 100,000."""
    schedule: dict[str, Any] = {"epochs": 240, "lr": 0.05, "weight_decay": 5e-4, "drops": (150, 180, 210)}
    teacher = sgd(images=TRAIN, batch=128, **schedule) | {"augment": ("shift", "scale", "flip")}
    student = sgd(images=TRAIN + FAKES, batch=256, **schedule) | {"augment": ("shift", "scale", "flip")}
    return Recipe(
        data=DataConfig(name="imagenet100", size=128),
        teacher=TeacherConfig(model="densenet161", **teacher),
        gan=biggan_deep_imagenet100(),
        ratio=replace(published_ratio(), features="classifier"),
        synth=SynthConfig(pool=250_000),
        student=StudentConfig(fake_share=FAKES / (TRAIN + FAKES), finetune_lr=0.01, **student),
    )


FAMILY = Family(
    kind="classification",
    full=full,
    select=SelectConfig(rho=0.9, count=FAKES),
    small=DataConfig(name="imagenet100", size=32, classes=20, per_label=200),
    slow=("mobilenet_v2_half", "shufflenet_v1", "shufflenet_v2"),
    authors=Authors(real_batch=0.5, labels=100, burn_in=1000),
)
PROTOCOL = (
    "Top-1 accuracy on 10,000 validation images at 128 pixels, last update. Students see about 117,000 real and "
    "M^g = 100,000 generated images (BigGAN-deep, cDR-RS, filtered by DenseNet-161 with rho = 0.9 per class) for 240 "
    "epochs; SGD with momentum 0.9, learning rate 0.05 (0.01 for mobile networks), divided by 10 after epochs 150, 180 "
    "and 210, weight decay 5e-4, random crops and flips."
)
DEVIATIONS = (
    *(type(text)(text.replace("128", "256").replace("have 64", "have 128")) for text in cifar100.DEVIATIONS),
    "Images are shifted, scaled and flipped; the paper uses random crops of 8 to 100 % of the area.",
)
TABLE3_PAIRS = tuple(
    Pair(student=name)
    for name in (
        *("resnet20", "wrn_40_1", "wrn_16_2", "resnet8x4"),
        *("resnet56", "mobilenet_v2_half", "shufflenet_v1", "vgg8"),
    )
)
TABLE6_PAIRS = (
    Pair(teacher="resnet110", student="resnet20", printed=75.31),
    Pair(teacher="wrn_40_2", student="wrn_40_1", printed=77.67),
    Pair(teacher="resnet34", student="wrn_40_1", printed=81.54),
    Pair(teacher="vgg19", student="vgg8", printed=83.41),
    Pair(teacher="vgg19", student="shufflenet_v1", printed=83.41),
)
TABLES = (
    PublishedTable(
        name="imagenet100-table3",
        title="ImageNet-100: cGAN-KD without other losses",
        source=f"{PAPER}, table 3",
        family=FAMILY,
        pairs=TABLE3_PAIRS,
        arms=(NOKD, CGAN_KD),
        printed=by_method(
            TABLE3_PAIRS,
            {
                "NOKD": "65.25 69.98 72.09 73.19 73.20 74.55 75.02 77.36",
                "cGAN-KD": "67.15 72.17 73.77 73.49 74.72 75.16 76.89 78.21",
            },
        ),
        protocol=PROTOCOL,
        deviations=DEVIATIONS,
    ),
    PublishedTable(
        name="imagenet100-table6",
        title="ImageNet-100: losses and cGAN-KD",
        source=f"{PAPER}, table 6",
        family=FAMILY,
        pairs=TABLE6_PAIRS,
        arms=(
            NOKD,
            *taught("BLKD", "FitNet", "VID", "RKD", "CRD", "SSKD"),
            *taught_on_fakes("BLKD", "FitNet", "VID", "RKD", "CRD", "SSKD"),
        ),
        printed=by_method(
            TABLE6_PAIRS,
            {
                "NOKD": "65.25 69.98 69.98 77.36 75.02",
                "BLKD": "65.35 70.79 69.36 80.15 77.07",
                "FitNet": "66.20 71.46 71.38 80.26 NA",
                "VID": "66.76 71.38 71.34 81.03 77.41",
                "RKD": "66.45 71.37 69.81 80.70 77.46",
                "CRD": "66.79 72.13 70.39 81.17 77.65",
                "SSKD": "67.05 72.92 71.44 81.85 78.93",
                "cGAN-KD+BLKD": "66.87 72.83 72.18 80.29 78.41",
                "cGAN-KD+FitNet": "66.73 73.53 72.63 81.16 NA",
                "cGAN-KD+VID": "67.24 72.87 72.53 81.19 78.65",
                "cGAN-KD+RKD": "67.66 73.10 72.21 80.93 78.70",
                "cGAN-KD+CRD": "67.91 73.18 73.06 81.46 78.40",
                "cGAN-KD+SSKD": "68.58 74.15 73.31 82.46 80.30",
            },
        ),
        protocol=PROTOCOL,
        deviations=(*DEVIATIONS, cifar100.SSKD_DEVIATION, "SSKD: the label loss has weight 0.1, published is 1."),
    ),
)
