"""The task of telling classes apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.errors import ConfigError, DataError, ModelError
from gankd.tasks.choices import Adjust, LabelSampling, Scale, Stronger
from gankd.tasks.given import in_best_order, logits_problem, odds_rise, order_of_outputs
from gankd.tasks.typed import classes_from


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Labels are int64 class numbers 0 .. num_classes - 1; a model gives (N, num_classes) logits."""

    num_classes: int
    class_names: tuple[str, ...] = ()

    kind: ClassVar[str] = "classification"
    metric: ClassVar[str] = "top1"
    metric_unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = True
    disagreement_name: ClassVar[str] = "cross-entropy of the teacher"
    error_name: ClassVar[str] = "0-1 error"
    """Name of the error in [0, 1] that the error bound is about."""
    weight_divisor: ClassVar[float] = 1.0
    """Published weights of losses stand next to a cross-entropy, whose size is that of this task's loss."""
    output_dtype: ClassVar[torch.dtype] = torch.float16
    """Type of stored teacher outputs: logits tolerate the rounding."""
    filter_per_group: ClassVar[bool] = True
    """The published filter has a threshold per class."""
    strong_augmentation: ClassVar[tuple[Stronger, ...]] = ("trivial", "erase")
    """Kinds that strong augmentation adds to those of the teacher."""
    filter_share: ClassVar[float] = 0.9
    """Published rho: share of generated images that the filter keeps."""
    has_classes: ClassVar[bool] = True
    """Labels are classes, and a model's outputs are logits of a distribution over them."""
    label_shape: ClassVar[tuple[int, ...]] = ()
    """Shape of one label."""
    soft_temperature: ClassVar[float] = 4.0
    """Default temperature of a virtual teacher's distributions."""
    label_loss_name: ClassVar[str] = "CE"
    """Name of the distillation loss that equals the label loss."""
    mixes: ClassVar[tuple[str, ...]] = ("mixup", "cutmix", "both")
    """Ways to mix labelled images."""
    not_when_mixed: ClassVar[tuple[str, ...]] = ("index", "labels")
    """Inputs of losses that a mixed image does not have: it is not one image, and has no single class."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Those of `metrics` that split the error by output."""
    table_notes: ClassVar[tuple[str, ...]] = (
        "nll is that of the student's outputs as they are: soft targets raise it, as students become less sure",
    )
    """Words below a table of students."""
    answer_name: ClassVar[str] = "probabilities"
    """Name of what an exported student gives."""
    default_adjust: ClassVar[Adjust] = "none"
    """Adjustment of labels that `auto` selects: the assigned class stays, with the teacher's soft output alongside."""
    reading_of_teacher: ClassVar[str] = ""
    """Reading of the teacher by filter and adjusted labels: as it is."""

    def __post_init__(self) -> None:
        require(self.num_classes >= 2, f"a classification needs at least 2 classes, got {self.num_classes}")

    @property
    def head_size(self) -> int:
        """Width of a model's last layer."""
        return self.num_classes

    @property
    def is_binary(self) -> bool:
        """True for two classes, for which one logit suffices."""
        return self.num_classes == 2

    @property
    def description(self) -> str:
        """The labels in words."""
        return f"{self.num_classes} classes"

    @property
    def facts(self) -> dict[str, Any]:
        """Kind of task and its labels, for scripts."""
        return {"task": self.kind, "range": None, "classes": self.num_classes}

    def describe(self, labels: Tensor) -> str:
        """The labels in words, whichever of them `labels` (N,) are."""
        return self.description

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all labels, in order."""
        return tuple(self.group_name(number) for number in range(self.num_classes))

    @property
    def reading(self) -> dict[str, Any]:
        """Settings with which a reader of the user's own images reads labels of this task."""
        return {"task": self.kind}

    def first_classes(self, count: int, what: str) -> "Classification":
        """Task of the first `count` classes of the data set `what`.

        Raises:
            ConfigError: `count` is not 2 .. number of classes.
        """
        require(
            2 <= count <= self.num_classes,
            f"data.classes must lie in 2..{self.num_classes}, the classes of {what}, got {count}",
        )
        return Classification(num_classes=count, class_names=self.class_names[:count])

    def target_loss(self, source: str, temperature: float) -> str:
        """Default loss of a student that learns from a target source; the student is at temperature 1."""
        return f"0.1*Label + 0.9*SoftTargets(T={temperature:g})@{source}"

    def distribution_size(self, bins: int) -> int:
        """Length of a distribution over labels: the classes, however many `bins` values would have."""
        return self.num_classes

    @property
    def output_scale(self) -> tuple[Scale, Scale]:
        """(offset, factor) from a network's raw output to what the task reads."""
        return 0.0, 1.0

    @property
    def label_dtype(self) -> torch.dtype:
        """Type of stored labels."""
        return torch.int64

    @property
    def num_groups(self) -> int:
        """Number of label groups for budgets and per-label statistics: the classes."""
        return self.num_classes

    def check_labels(self, labels: Tensor) -> None:
        """Raise DataError unless every label is a class number."""
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            raise DataError(
                f"class label {labels[wrong][0].item()} is outside 0..{self.num_classes - 1} "
                f"({int(wrong.sum())} of {len(labels)} labels)"
            )

    def check_outputs(self, outputs: Tensor, count: int, what: str) -> None:
        """Raise ModelError unless `outputs` is (count, num_classes)."""
        if tuple(outputs.shape) != (count, self.num_classes):
            raise ModelError(
                f"{what} gives outputs of shape {tuple(outputs.shape)} for {count} images; "
                f"classification into {self.num_classes} classes needs ({count}, {self.num_classes}) logits; a network "
                "of your own takes their number as its argument num_outputs or num_classes"
            )

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (N,) of logits (N, K) to classes (N,) or to probabilities (N, K)."""
        return F.cross_entropy(outputs.float(), labels, reduction="none")

    def excess_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss (N,) above the least that the labels allow: KL(labels || outputs), of classes the loss itself."""
        loss = self.loss(outputs, labels)
        return loss if labels.ndim == 1 else loss - torch.special.entr(labels.float()).sum(1)

    def on_unit_scale(self, outputs: Tensor) -> Tensor:
        """Outputs as losses read them: logits as they are, in at least float32."""
        return outputs.float() if outputs.dtype != torch.float64 else outputs

    def targets(self, labels: Tensor) -> Tensor:
        """Label probabilities (N, K) of classes (N,), or of what are probabilities already."""
        return F.one_hot(labels, self.num_classes).float() if labels.ndim == 1 else labels.float()

    def hard_labels(self, labels: Tensor) -> Tensor:
        """Classes (N,) of classes, or the likeliest of probabilities (N, K)."""
        return labels if labels.ndim == 1 else labels.argmax(1)

    def mixable(self, labels: Tensor) -> Tensor:
        """Labels whose weighted means are labels: probabilities (N, K)."""
        return self.targets(labels)

    def closeness(self, labels: Tensor) -> Tensor:
        """(N, N) log-odds, up to a constant, with which rows of `labels` (N, K) are mixed: all are equally likely."""
        return torch.zeros((len(labels), len(labels)), device=labels.device)

    def predict(self, outputs: Tensor) -> Tensor:
        """Most likely class (N,)."""
        return outputs.argmax(1)

    def answers(self, outputs: Tensor) -> Tensor:
        """Probabilities (N, K) of logits: what an exported student gives."""
        return outputs.softmax(1)

    def outputs_of(self, answers: Tensor) -> Tensor:
        """Logits of probabilities (N, K), which are as good as the network's: the logarithm."""
        return answers.clamp_min(1e-30).log()

    def doubt(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Probability (N,) of each answer where it is wrong, and 0 where it is right.

        Of all images, those above a limit are the wrong answers that are given if a class needs a higher probability.
        """
        return torch.where(self.predict(answers) == labels, 0.0, answers.amax(1).double())

    def unanswered(self, answers: Tensor, limit: float) -> float | None:
        """Share of images whose class is left open because its probability is not above the limit."""
        return (answers.amax(1) <= limit).double().mean().item()

    def metric_interval(self, errors: Tensor) -> tuple[float, float]:
        """95 % interval of the accuracy in per cent over images with errors (N,) of 0 or 100.

        Wilson. Probable inference, the law of succession, and statistical inference. JASA 22 (1927): sound near 0 and
        100 %, too.
        """
        z, count = 1.96, len(errors)
        share = 1 - errors.double().mean().item() / 100
        centre, spread = share + z * z / (2 * count), share * (1 - share) / count + (z / (2 * count)) ** 2
        low, high = (100 * (centre + sign * z * math.sqrt(spread)) / (1 + z * z / count) for sign in (-1, 1))
        return low, high

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Top-1 accuracy in per cent and negative log-likelihood in nats."""
        return {
            "top1": 100.0 * (self.predict(outputs) == labels).double().mean().item(),
            "nll": self.loss(outputs, labels).double().mean().item(),
        }

    def unit_of(self, metric: str) -> str:
        """Unit of one of `metrics`."""
        return "nats" if metric == "nll" else self.metric_unit

    def chance(self, labels: Tensor) -> float:
        """Top-1 of always guessing the most frequent class of `labels`."""
        return 100.0 * labels.bincount(minlength=self.num_classes).max().item() / len(labels)

    def detail(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Balanced accuracy in per cent: the mean over the classes of `labels` of the share of each that is right."""
        found = self.by_class(outputs, labels).values()
        return {"balanced": sum(found) / len(found)}

    def by_class(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy in per cent on the images of each class that occurs in `labels` (N,), by its name."""
        right = (self.predict(outputs) == labels).double()
        counts = labels.bincount(minlength=self.num_classes)
        shares = right.new_zeros(self.num_classes).index_add(0, labels, right) / counts.clamp_min(1)
        return {self.group_name(k): 100.0 * shares[k].item() for k in counts.nonzero()[:, 0].tolist()}

    def beats_chance(self, outputs: Tensor, labels: Tensor) -> bool:
        """True if these logits are clearly better than a constant guess.

        The odds, right answers per wrong one, must be 1.25 times those of a constant guess: for few classes, or one
        that is frequent, this asks that a fifth of its errors are gone, for many classes that a quarter more answers
        are right. Top-1 and balanced accuracy both count, because weighted classes may cost top-1.
        """
        classes = len(labels.unique())
        return odds_rise(self.metrics(outputs, labels)["top1"], self.chance(labels), 1.25) or odds_rise(
            self.detail(outputs, labels)["balanced"], 100.0 / classes, 1.25
        )

    def output_order(self, names: Sequence[str], setting: str) -> Tensor:
        """Number of the output (K,) of each class, for a network whose outputs are the classes `names`."""
        return order_of_outputs(names, self.label_names, setting)

    def output_problem(self, outputs: Tensor) -> tuple[str, str]:
        """A reason to refuse these outputs (N, K) as logits, and advice about them; each may be empty."""
        return logits_problem(outputs)

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Error (N,) of each answer in per cent: 0 or 100."""
        return 100.0 * (self.predict(outputs) != labels).double()

    def nearly_right(self, errors: Tensor, labels: Tensor) -> bool:
        """True if these errors (N,) leave nothing to look for."""
        return errors.mean().item() <= 2.0

    def clearly_less(self, errors: Tensor, before: Tensor, labels: Tensor) -> bool:
        """True if `errors` (N,) are those of a better reading of the same network, and not only by luck.

        The odds of a right answer are three times those `before` and above chance, and the answers that changed changed
        for the better by three standard deviations (McNemar's test).
        """
        gain, value = (before - errors) / 100, 100 - errors.mean().item()
        return (
            odds_rise(value, 100 - before.mean().item(), 3.0)
            and odds_rise(value, self.chance(labels), 1.25)
            and gain.sum().item() >= 3 * gain.abs().sum().sqrt().item()
        )

    def reread(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, str]:
        """Errors (N,) with the outputs in the order of classes that fits best, and that order in words."""
        return in_best_order(self.predict(outputs), labels, self.label_names)

    def disagreement(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Teacher's cross-entropy (N,) to the assigned class (filter score of Ding et al. 2023, section 1.2)."""
        return self.loss(outputs, labels)

    def adjust(self, outputs: Tensor, labels: Tensor, how: Adjust) -> Tensor:
        """Labels (N,) after adjustment by teacher logits; `soft` gives (N, K) probabilities."""
        if how == "argmax" or how == "prediction":
            return self.predict(outputs)
        return outputs.float().softmax(1) if how == "soft" else labels

    def consecutive(self, labels: Tensor) -> Tensor:
        """Raise ConfigError: nothing lies between two classes."""
        raise ConfigError("data.gap leaves out values between others, but the labels are classes; leave it at 1")

    def shares(self, outputs: Tensor) -> Tensor:
        """Probabilities (N, K) of the classes; their mean says how often each occurs."""
        return outputs.float().softmax(1)

    def groups(self, labels: Tensor) -> Tensor:
        """Group number (N,) of each label: its class."""
        return labels

    def counts(self, labels: Tensor) -> list[float]:
        """Number of labels of each class; probabilities (N, K) count fractionally."""
        if labels.ndim == 2:
            return [float(value) for value in labels.double().sum(0)]
        return [float(value) for value in labels.bincount(minlength=self.num_classes)]

    def group_name(self, group: int) -> str:
        """Name of this group for people."""
        return self.class_names[group] if self.class_names else str(group)

    def label_name(self, label: Tensor) -> str:
        """Name of this label for people: its class."""
        return self.group_name(int(label))

    def labels_from(self, texts: Sequence[str], most: int) -> Tensor:
        """Class numbers (N,) from names or numbers as typed by a person; see `typed.classes_from`."""
        return classes_from(texts, self.label_names)

    def written(self, labels: Tensor) -> np.ndarray:
        """Labels (N,) as a file of a user's own images holds them: class names."""
        return np.array([self.group_name(int(label)) for label in labels])

    def sweep(self, count: int) -> Tensor | None:
        """None: classes have no order to sweep through."""
        return None

    def histogram(self, labels: Tensor, bins: int) -> list[tuple[str, int]]:
        """(class, number of `labels` (N,)) of every class, whatever `bins`."""
        counts = labels.cpu().bincount(minlength=self.num_classes).tolist()
        return list(zip(self.label_names, counts, strict=True))

    def absent(self, labels: Tensor) -> list[int]:
        """Classes that do not occur in `labels` (N,)."""
        return (labels.bincount(minlength=self.num_classes) == 0).nonzero()[:, 0].tolist()

    def add_noise(self, labels: Tensor, at: Tensor, amount: float, generator: torch.Generator) -> Tensor:
        """`labels` (N,) after a share `amount` of those at indices `at` became another class, each equally likely.

        Random numbers are drawn for all labels, so that a label's noise does not depend on `at`.
        """
        shift = torch.randint(1, self.num_classes, labels.shape, generator=generator)
        turn = torch.randperm(len(labels), generator=generator)
        hit = at[turn[at].sort().indices[: math.floor(amount * len(at) + 0.5)]]
        labels = labels.clone()
        labels[hit] = (labels[hit] + shift[hit]) % self.num_classes
        return labels

    def sample_labels(self, count: int, real: Tensor, how: LabelSampling, generator: torch.Generator) -> Tensor:
        """(count,) labels: the classes of `real` (`balanced`) or all (`uniform`) equally often, or as often as in
        `real`.
        """
        if how == "empirical":
            return real[torch.randint(len(real), (count,), generator=generator)]
        classes = real.unique() if how == "balanced" else torch.arange(self.num_classes)
        order = torch.randperm(count, generator=generator)
        return classes[order % len(classes)]
