"""The ways to train a student that every report compares."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from gankd.synthetic import SelectConfig
from gankd.training.objective import Objective

Processing = Literal["raw", "subsampled", "filtered", "adjusted"]


@dataclass(frozen=True)
class Arm:
    """One row of the table: which generated images, if any, and whether the teacher's outputs are learned too."""

    name: str
    title: str
    fakes: Processing | None = None
    kd: bool = False
    matched: bool = True
    """As many updates as every other matched arm; the rest passes over real images as often as arms with fakes do."""


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("real", "real only", matched=False),
        Arm("real_matched", "real, equal updates"),
        Arm("kd_matched", "KD, equal updates", kd=True),
        Arm("raw", "+ raw fakes", "raw"),
        Arm("subsampled", "+ subsampled", "subsampled"),
        Arm("filtered", "+ filtered", "filtered"),
        Arm("adjusted", "+ adjusted: cGAN-KD", "adjusted"),
        Arm("adjusted_kd", "cGAN-KD + KD", "adjusted", kd=True),
    )
}
CONTROLS = ("real_matched", "kd_matched")
"""What a gain must be shown against: the same number of updates without generated images."""
METHODS = ("adjusted", "adjusted_kd")
"""The whole method; validation says which of the two the headline speaks of."""


def arm_title(arm: Arm, objective: Objective) -> str:
    """What a table calls this arm: the names of its losses stand in for KD."""
    names = "+".join(objective.distilling.labels) or "labels"
    return re.sub(r"\bKD(?=, equal|$)", lambda _: names, arm.title) if arm.kd else arm.title


def selection_of(arm: Arm, config: SelectConfig) -> SelectConfig | None:
    """How this arm selects from the pool: `config` up to the arm's processing step.

    Settings of later steps are left out, so that changing them does not train this arm's students again.
    """
    if arm.fakes == "raw":
        return SelectConfig(subsample="none", filter="none", adjust="none", count=config.count)
    if arm.fakes == "subsampled":
        return replace(config, filter="none", rho=None, adjust="none")
    if arm.fakes == "filtered":
        return replace(config, adjust="none")
    return config if arm.fakes == "adjusted" else None
