"""The task of telling classes apart."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.errors import ModelError
from gankd.tasks.calibration import calibration_error
from gankd.tasks.choices import Adjust, Scale, Stronger
from gankd.tasks.class_labels import ClassLabels
from gankd.tasks.given import odds_rise


@dataclass(frozen=True, kw_only=True)
class Classification(ClassLabels):
    """Labels are int64 class numbers 0 .. num_classes - 1; a model gives (N, num_classes) logits."""

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
    soft_temperature: ClassVar[float] = 4.0
    """Default temperature of a virtual teacher's distributions."""
    label_loss_name: ClassVar[str] = "CE"
    """Name of the distillation loss that equals the label loss."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Those of `metrics` that split the error by output."""
    table_notes: ClassVar[tuple[str, ...]] = (
        "nll is that of the student's outputs as they are: soft targets raise it, as students become less sure",
    )
    """Words below a table of students."""
    answer_name: ClassVar[str] = "probabilities"
    """Name of what an exported student gives."""
    adjustments: ClassVar[tuple[Adjust, ...]] = ("none", "argmax", "soft")
    """Adjustments of labels that the task has."""
    default_adjust: ClassVar[Adjust] = "none"
    """Adjustment of labels that `auto` selects: the assigned class stays, with the teacher's soft output alongside."""
    reading_of_teacher: ClassVar[str] = ""
    """Reading of the teacher by filter and adjusted labels: as it is."""

    @property
    def head_size(self) -> int:
        """Width of a model's last layer."""
        return self.num_classes

    @property
    def is_binary(self) -> bool:
        """True for two classes, for which one logit suffices."""
        return self.num_classes == 2

    @property
    def output_scale(self) -> tuple[Scale, Scale]:
        """(offset, factor) from a network's raw output to what the task reads."""
        return 0.0, 1.0

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

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Top-1 accuracy in per cent and negative log-likelihood in nats."""
        return {
            "top1": 100.0 * (self.predict(outputs) == labels).double().mean().item(),
            "nll": self.loss(outputs, labels).double().mean().item(),
        }

    def unit_of(self, metric: str) -> str:
        """Unit of one of `metrics`."""
        return "nats" if metric == "nll" else self.metric_unit

    def detail(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Balanced accuracy in per cent: the mean over the classes of `labels` of the share of each that is right."""
        found = self.by_class(outputs, labels).values()
        return {"balanced": sum(found) / len(found)}

    def calibration(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Expected calibration error in per cent: distance of probability and share of right answers."""
        right = self.predict(outputs) == labels
        return {"ece": 100.0 * calibration_error(self.answers(outputs.float()).amax(1), right)}

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

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Error (N,) of each answer in per cent: 0 or 100."""
        return 100.0 * (self.predict(outputs) != labels).double()

    def disagreement(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Teacher's cross-entropy (N,) to the assigned class (filter score of Ding et al. 2023, section 1.2)."""
        return self.loss(outputs, labels)

    def adjust(self, outputs: Tensor, labels: Tensor, how: Adjust) -> Tensor:
        """Labels (N,) after adjustment by teacher logits; `soft` gives (N, K) probabilities."""
        if how == "argmax" or how == "prediction":
            return self.predict(outputs)
        return outputs.float().softmax(1) if how == "soft" else labels

    def shares(self, outputs: Tensor) -> Tensor:
        """Probabilities (N, K) of the classes; their mean says how often each occurs."""
        return outputs.float().softmax(1)
