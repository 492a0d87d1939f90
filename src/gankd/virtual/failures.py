"""Failures: the ways in which a virtual teacher is known to fail, F1 to F10, each found by a rule.

Two failures cannot be seen in outputs: F11, a gain that comes only from the weight of the loss, needs the control of
equal weight in the ablations; F12, other classes or another order of them, is refused by `VirtualTeacher.check_task`.
F9, a network that learns from its own outputs and becomes ever less certain, is seen while it trains, by `SelfVKD`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from gankd.virtual.groups import TINY

MORE_CONDITION = "keep virtual.anchor and virtual.mean_table on, train longer"
LESS_MEMORY = "virtual.spectral_norm=true, a smaller virtual.width, or the table instead"


@dataclass(frozen=True)
class Failure:
    """A way in which a virtual teacher is known to fail, found in its samples."""

    code: str
    """F1 to F10."""
    text: str
    remedy: str


def spread_failures(spread: float, share_p: float, share_q: float) -> list[Failure]:
    """F1, F4 and F9b: samples of a label vary too little, hardly at all, or too much.

    Args:
        spread: of samples within a label, as a share of the teacher's.
        share_p, share_q: share of the variance of outputs, and of samples, that the label explains.
    """
    found = []
    if spread < 0.7:
        found.append(
            Failure(
                "F1",
                f"samples of a label have {spread:.2f} of the teacher's spread",
                "more virtual.polish, virtual.anchor=1, virtual.discriminator_steps=2 or a larger virtual.z_dim",
            )
        )
    if spread < 0.7 and 1 - share_q < 0.1 * (1 - share_p):
        found.append(Failure("F4", "samples hardly depend on the noise: a label has only one", "as for F1"))
    if spread > 1.15:
        found.append(
            Failure(
                "F9b",
                f"samples of a label have {spread:.2f} times the teacher's spread",
                "a higher virtual.lr, virtual.spectral_norm=false or more steps",
            )
        )
    return found


def sharpness_failures(p: Tensor, q: Tensor) -> list[Failure]:
    """F2 and F6: samples q (N, K) are sharper than outputs p (N, K), or outputs are almost one-hot."""
    peak_p, peak_q = (float(x.amax(1).mean()) for x in (p, q))
    found = []
    if peak_q > peak_p + 0.05:
        found.append(
            Failure(
                "F2",
                f"samples are too sharp: their largest probability is {peak_q:.2f} on average, the teacher's "
                f"{peak_p:.2f}",
                "a higher virtual.temperature, virtual.discriminator_input=sqrt, virtual.anchor=1",
            )
        )
    if peak_p > 0.9:
        found.append(
            Failure(
                "F6",
                f"the teacher's softened outputs are almost one-hot: largest probability {peak_p:.2f} on average",
                "a higher virtual.temperature, stronger augmentation, or outputs of earlier epochs",
            )
        )
    return found


def training_failures(distances: dict[str, dict[str, float]], *, energy: float, passed: bool) -> list[Failure]:
    """F5 and F10: samples lag behind the teacher, or the generator oscillates.

    Args:
        distances: by `over_splits`; `earlier` and `raw` may be empty.
        energy: energy distance of samples to outputs.
        passed: the gate of that distance passes.
    """
    found = []
    before = distances["earlier"].get("energy", math.inf)
    if energy > 1.5 * before and not passed:
        found.append(
            Failure(
                "F5",
                "samples are nearer to the teacher of some epochs ago than to the finished one: energy distance "
                f"{before:.4f} then, {energy:.4f} now",
                "a lower virtual.ema or more virtual.polish",
            )
        )
    raw, samples = distances["raw"], distances["samples"]
    further = max((raw[name] / max(TINY, samples[name]) for name in ("mean", "energy") if name in raw), default=0.0)
    if further > 3:
        found.append(
            Failure(
                "F10",
                f"the generator oscillates: without averaging of its weights it is {further:.1f} times as far off",
                "keep the averaged one, and let the learning rate fall to 0 (virtual.polish)",
            )
        )
    return found


def memorised(auc: float, *, passed: bool, count: int) -> list[Failure]:
    """F8: the discriminator may have memorised few outputs.

    Args:
        auc: of the two-sample test.
        passed: its gate passes.
        count: outputs of a typical label.
    """
    if passed or count >= 50:
        return []
    text = f"with {count} outputs of a label the discriminator may have memorised them: a classifier tells samples"
    return [Failure("F8", f"{text} from outputs with AUC {auc:.2f}", LESS_MEMORY)]


def class_ignored(shares: tuple[float, float], variances: tuple[float, float], right: float) -> list[Failure]:
    """F3 for classes: samples hardly depend on the class.

    Args:
        shares: share of the variance that the class explains, of outputs and of samples.
        variances: variance between classes, of outputs and of samples.
        right: share of samples whose likeliest class is their own.
    """
    if shares[1] >= 0.9 * shares[0] or variances[1] >= 0.9 * variances[0]:
        return []
    text = (
        f"samples hardly depend on the class: it explains {shares[1]:.0%} of their variance and {shares[0]:.0%} of "
        f"the teacher's; it is the likeliest class of {right:.0%} of the samples"
    )
    return [Failure("F3", text, MORE_CONDITION)]


def value_ignored(of_outputs: float, of_samples: float) -> list[Failure]:
    """F3 for values: the means of samples hardly correlate with the label.

    Args:
        of_outputs, of_samples: correlation of their means with the label.
    """
    if of_samples >= 0.9 * of_outputs:
        return []
    text = f"samples hardly depend on the label: the correlation of their mean with it is {of_samples:.2f}, of the"
    return [Failure("F3", f"{text} teacher's {of_outputs:.2f}", MORE_CONDITION)]


def label_noise(lost: float, noise: float) -> list[Failure]:
    """F7: the label is the likeliest class of a sample less often, by the share `lost`, than of an output.

    Args:
        lost: difference of the two shares.
        noise: of such a difference between halves of the teacher's outputs.
    """
    if lost <= 0.02 + noise:
        return []
    text = (
        f"the label is the likeliest class of a sample {100 * lost:.1f} points less often than of the teacher's "
        "outputs, which acts as label noise"
    )
    return [Failure("F7", text, "draw such samples again, or lower the weight of the loss")]


def by_number(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Failures in the order of their codes."""
    return tuple(sorted(failures, key=lambda one: (int(one.code.strip("Fb")), one.code)))
