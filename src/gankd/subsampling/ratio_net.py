"""The density-ratio network: (image features, label) -> log p_real(x given y) / p_fake(x given y)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.generators.label_embedding import make_embedding
from gankd.tasks import Task

Head = Literal["log", "relu", "softplus"]
LOG_LIMIT = 8.0
"""Log-ratios are clipped to +-LOG_LIMIT, that is ratios between 1/2981 and 2981."""
GROUPS = 8
LABEL_WIDTH = 32
ROWS = 8192
"""Samples scored at once."""


class RatioNet(nn.Module):
    """Linear - GroupNorm - ReLU - dropout layers on standardised features (N, F) and labels (N,).

    `hidden=(2048, 1024, 512, 256, 128)` (classes) or `(1024, 512, 256, 128, 64)` (scalar labels) with
    `head="relu"` is the published MLP-5 [1], except for the width of the label embedding.

    Args:
        task: task of the labels, which decides how they are embedded.
        num_features: F.
        hidden: widths of the hidden layers, multiples of 8, at least 32 (normalising 2 units leaves only a sign).
        head: `log` gives log-ratios; `relu` (published) and `softplus` give ratios >= 0.
        dropout: share of hidden units left out in training mode.

    Raises:
        ConfigError: a hidden width is not allowed, or `dropout` is out of range.

    [1] Ding, Wang, Xu, Wang, Welch. Distilling and transferring knowledge via cGAN-generated samples for
        image classification and regression. Expert Systems with Applications 213 (2023).
    """

    def __init__(
        self, task: Task, num_features: int, hidden: tuple[int, ...], head: Head = "log", dropout: float = 0.0
    ) -> None:
        super().__init__()
        require(
            len(hidden) > 0 and all(width >= 4 * GROUPS and width % GROUPS == 0 for width in hidden),
            f"hidden must be widths that are multiples of {GROUPS} and at least {4 * GROUPS}, got {hidden}",
        )
        require(0 <= dropout < 1, f"dropout must lie in [0, 1), got {dropout}")
        self.head, self.dropout = head, dropout
        self.labels = make_embedding(task, "learned", LABEL_WIDTH)
        widths = (num_features + LABEL_WIDTH, *hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden, strict=False))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in hidden)
        self.out = nn.Linear(hidden[-1], 1)
        if head != "log":
            nn.init.ones_(self.out.bias)  # ratios start near 1, so no ReLU output starts dead

    def forward(self, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N,) log-ratios (head `log`) or ratios; `generator` draws the dropout of training mode."""
        x = torch.cat([self.labels(labels), features.float()], 1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x)).relu()
            if self.training and self.dropout:
                # By hand: F.dropout draws from the global generator, so a resumed run would differ.
                kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
                x = x * kept / (1 - self.dropout)
        raw: Tensor = self.out(x).squeeze(1)
        if self.head == "log":
            return raw
        return raw.relu() if self.head == "relu" else F.softplus(raw)

    def log_ratio(self, features: Tensor, labels: Tensor) -> Tensor:
        """(N,) log-ratios within +-LOG_LIMIT, whatever the head; a dead ReLU output gives -LOG_LIMIT."""
        value: Tensor = self(features, labels)
        return (value if self.head == "log" else value.log()).clamp(-LOG_LIMIT, LOG_LIMIT)


class DensityRatio(nn.Module):
    """log p_real(x given y) / p_fake(x given y) from raw features, calibrated and normalised.

        slope * net((features - mean) / std, label) + offset - log_normaliser[group of label]

    Slope and offset come from held-out samples; the normaliser makes the mean ratio of each group's fakes 1.
    The state dict holds everything, so `DensityRatio(task, F, hidden, head)` and `load_state_dict` restore it.

    Args:
        task: task of the labels.
        num_features: width F of the raw features.
        hidden: see `RatioNet`.
        head: see `RatioNet`.
        dropout: see `RatioNet`; has no effect on scores.
    """

    mean: Tensor
    std: Tensor
    calibration: Tensor
    log_normaliser: Tensor

    def __init__(
        self, task: Task, num_features: int, hidden: tuple[int, ...], head: Head = "log", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.task = task
        self.net = RatioNet(task, num_features, hidden, head, dropout)
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.register_buffer("log_normaliser", torch.zeros(task.num_groups))
        self.facts: dict[str, float | str] = {}
        """Diagnostics of the estimate (see `train_ratio`); not part of the state dict."""

    def standardise(self, features: Tensor) -> Tensor:
        """Features (N, F) in units of the real data's mean and standard deviation, float32."""
        return (features.float() - self.mean) / self.std

    @torch.no_grad()
    def log_ratio(self, features: Tensor, labels: Tensor) -> Tensor:
        """Score samples, in eval mode and float32.

        Args:
            features: (N, F) raw features, on this module's device.
            labels: (N,) assigned labels in user units.

        Returns:
            (N,) float32 log-ratios within +-8.
        """
        self.eval()
        with torch.autocast(features.device.type, enabled=False):
            parts = [
                self._score(some, their_labels)
                for some, their_labels in zip(features.split(ROWS), labels.split(ROWS), strict=True)
            ]
        return torch.cat(parts)

    def _score(self, features: Tensor, labels: Tensor) -> Tensor:
        slope, offset = self.calibration
        raw = self.net.log_ratio(self.standardise(features), labels)
        score: Tensor = slope * raw + offset - self.log_normaliser[self.task.groups(labels)]
        return score.clamp(-LOG_LIMIT, LOG_LIMIT)
