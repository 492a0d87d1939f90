"""Train the density ratio on features that were computed once: a small network, seconds of work."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gankd.config import check_ranges, require, to_dict
from gankd.errors import DataError, ModelError, TrainingError
from gankd.losses.density_ratio import logistic_ratio_loss, softplus_ratio_loss, ulsif_ratio_loss
from gankd.ranges import AtLeastZero, BelowOne, Count, CountFromTwo, UpToOne, Within
from gankd.runs import Stage
from gankd.seeds import derive_seed, rng
from gankd.settings import explained
from gankd.subsampling.ratio_net import DensityRatio, Head, RatioNet
from gankd.tasks import Task
from gankd.training.ratio_calibration import calibrate
from gankd.training.ratio_pairs import ByLabel, Pairs, held_out

JUDGED_PAIRS = 2048
"""Held-out pairs, evenly over label groups, that judge each epoch; more where more are held out."""
FINAL_PAIRS = 16384
"""Held-out pairs that calibrate the chosen network and give the facts."""
PENALTY = 0.01
"""lambda as published, the default."""


@explained
@dataclass(frozen=True, kw_only=True)
class RatioConfig:
    """Settings of the estimate of p_real / p_fake. `published_ratio()` gives the paper's settings."""

    where: ClassVar[str] = "ratio."

    loss: Literal["logistic", "softplus", "ulsif"] = "logistic"
    """`logistic` learns log-ratios and is bounded below; `softplus` is published, `ulsif` least squares."""
    head: Literal["auto", "log", "relu", "softplus"] = "auto"
    """The network's output: `auto` is log for logistic, relu (published) for softplus, softplus for ulsif."""
    penalty: AtLeastZero = PENALTY
    """lambda, which pulls the mean ratio of generated samples to 1; logistic needs none and refuses another."""
    features: Literal["teacher", "classifier", "autoencoder"] = "teacher"
    """Network whose features are compared: the teacher, or one trained for this purpose as in the paper."""
    hidden: tuple[int, ...] = (256, 128, 64)
    """Widths of the network's hidden layers."""
    dropout: tuple[BelowOne, ...] = (0.2, 0.5)
    """Candidates, trained side by side; held-out loss chooses. Small real sets need the larger one."""
    epochs: Count = 200
    """Largest number of passes over the real samples."""
    patience: Count = 20
    """Passes without a lower held-out loss after which a candidate stops."""
    keep: Literal["best", "last"] = "best"
    """Weights of the pass with the lowest held-out loss, or (published) of the last one, whatever the patience."""
    batch_size: CountFromTwo = 256
    """Number of real samples, and of generated ones, in each step."""
    fresh: bool = False
    """Generated samples of training are new ones at every step, for labels that are taken evenly, as published; False
    takes label groups evenly and pairs them with samples that were drawn once. It costs a sample per sample seen."""
    lr: UpToOne = 1e-3
    """Learning rate."""
    decay_at: tuple[Within, ...] = ()
    """Shares of the epochs after each of which the learning rate falls to a tenth."""
    weight_decay: BelowOne = 1e-4
    """Pull of the weights towards 0."""
    held_out: Within = 0.25
    """Share of real and of generated samples that stop, choose and calibrate instead of train."""
    calibrated: bool = True
    """Held-out samples calibrate the ratio, and its mean over the generated samples of each label group is 1; false:
    the network's outputs as they are, as published."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            len(self.hidden) > 0 and all(32 <= width <= 8192 and width % 8 == 0 for width in self.hidden),
            f"ratio.hidden must be widths that are multiples of 8 from 32 to 8192, got {list(self.hidden)}",
        )
        require(len(self.dropout) > 0, "ratio.dropout needs at least one candidate, got none")
        require(
            list(self.decay_at) == sorted(set(self.decay_at)),
            f"ratio.decay_at must be rising shares within (0, 1), got {list(self.decay_at)}",
        )
        require(
            self.loss != "logistic" or self.head in ("auto", "log"),
            f"loss=logistic learns log-ratios and needs head=log, got {self.head}",
        )
        require(
            self.loss != "logistic" or self.penalty == PENALTY,
            f"ratio.penalty is for loss=softplus and ulsif, got {self.penalty:g} with logistic; set it to {PENALTY}",
        )

    @property
    def output(self) -> Head:
        """The network's head."""
        if self.head != "auto":
            return self.head
        heads: dict[str, Head] = {"logistic": "log", "softplus": "relu", "ulsif": "softplus"}
        return heads[self.loss]

    @property
    def identity(self) -> dict[str, Any]:
        """Settings as plain data; a note tells uLSIF with its penalty from earlier results, which ignored it."""
        settings = to_dict(self) | ({"penalised": True} if self.loss == "ulsif" else {})
        if not self.fresh:
            del settings["fresh"]
        if self.calibrated:
            del settings["calibrated"]
        return settings

    def learning_rate_factor(self, step: int, per_epoch: int) -> float:
        """Learning rate of an update as a share of `lr`, with `per_epoch` updates in an epoch."""
        drops = [round(share * self.epochs) for share in self.decay_at]
        return 0.1 ** sum(step // per_epoch >= drop for drop in drops)


def published_ratio(
    hidden: tuple[int, ...] = (2048, 1024, 512, 256, 128), *, epochs: int = 200, drops: tuple[int, ...] = (80, 150)
) -> RatioConfig:
    """The estimator cDRE of Ding et al. (2023): softplus loss, MLP-5, dropout 0.5, a tenth of the learning rate after
    epochs 80 and 150 of 200, the last one kept. `fresh` is left to the user: it costs millions of generated images.

    `hidden=(1024, 512, 256, 128, 64)` is theirs for scalar labels. Held-out samples, calibration and the normaliser
    remain ours, as does one feature vector per image in place of image-sized ones.
    """
    decay_at = tuple(drop / epochs for drop in drops)
    return RatioConfig(
        loss="softplus", hidden=hidden, dropout=(0.5,), lr=1e-4, epochs=epochs, decay_at=decay_at, keep="last"
    )


def train_ratio(
    features_real: Tensor,
    labels_real: Tensor,
    features_fake: Tensor,
    labels_fake: Tensor,
    task: Task,
    config: RatioConfig,
    seed: int,
    stage: Stage | None = None,
    *,
    fresh: Callable[[Tensor, int], Tensor] | None = None,
) -> DensityRatio:
    """Estimate log p_real(x given y) / p_fake(x given y) on features.

    Every step takes label groups evenly, a real sample of each, and a generated one of the same or nearest label; both
    enter with the real one's label, so that labels carry no information about the origin. Held-out samples end the
    training, choose the dropout and calibrate: slope and offset by logistic regression (Platt), then a mean ratio of 1
    over each group's generated samples.

    Args:
        features_real: (N, F) features, any float type, on the device to train on.
        labels_real: (N,) labels in user units.
        features_fake: (M, F) features of generated images, computed in the same way from uint8 images.
        labels_fake: (M,) their assigned labels.
        task: task of the labels.
        config: settings.
        seed: of splits, weights, batches and dropout.
        stage: keeps checkpoints and shows progress.
        fresh: features (B, F) of new generated images for labels (B,) in a step, with `config.fresh`. Those given then
            only judge and calibrate.

    Returns:
        The ratio in eval mode. Its `facts` are measured on held-out pairs: `auc` of telling real from generated
        (0.5: no difference), `mean_ratio_fake` and `mean_inverse_ratio_real` (both 1 for the true ratio,
        before the normaliser), `mean_ratio_real`, `held_out_loss`, `dropout`, `epoch`, `slope`, `offset`, and
        `advice`, empty when there is nothing to say.

    Raises:
        ConfigError: `fresh` is missing, or given and not asked for.
        ModelError: the features do not fit each other.
        DataError: features are not finite, or too few samples share a label.
        TrainingError: the loss is not finite.
    """
    require(config.fresh == (fresh is not None), f"ratio.fresh={config.fresh} and the argument `fresh` must agree")
    stage = stage or Stage("ratio")
    device = features_real.device
    _check(features_real, labels_real, features_fake, labels_fake)

    # --- pairs of like labels: some to fit on, others to judge and calibrate by
    labels_real, labels_fake = labels_real.cpu(), labels_fake.cpu()
    late_real = held_out(task.groups(labels_real), config.held_out, seed, "real")  # (N,) bool
    late_fake = held_out(task.groups(labels_fake), config.held_out, seed, "fake")  # (M,) bool
    fit = _pairs(task, labels_real, labels_fake, ~late_real, ~late_fake)
    held = _pairs(task, labels_real, labels_fake, late_real, late_fake)
    num_late = int(late_real.sum())

    # --- one network per dropout, all on the same standardised features
    ratio, nets = _networks(task, features_real[(~late_real).to(device)], config, seed)
    real, fake, labels = ratio.standardise(features_real), ratio.standardise(features_fake), labels_real.to(device)

    def batch(index: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Features (2 B, F) of B pairs, real ones first, and the labels (2 B,) that condition both."""
        r = index.to(device)
        return torch.cat([real[r], made]), torch.cat([labels[r], labels[r]])

    def given(index: Tensor, fake_index: Tensor) -> tuple[Tensor, Tensor]:
        return batch(index, fake[fake_index.to(device)])

    # --- training: all networks in one step, each until its held-out loss stops falling
    judged = given(*held.draw(max(JUDGED_PAIRS, num_late), rng(seed, "ratio", "judged")))
    by_label = ByLabel(labels_real, ~late_real)
    per_epoch = -(-(len(late_real) - num_late) // config.batch_size)
    best = _Best(nets, config.patience, last=config.keep == "last")
    optimizer = torch.optim.Adam(
        nets.parameters(), config.lr, betas=(0.5, 0.999), weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(config.learning_rate_factor, per_epoch=per_epoch))
    steps = stage.steps(config.epochs * per_epoch, nets=nets, optimizer=optimizer, best=best, schedule=schedule)
    for step in steps:
        if best.finished:  # also at the start of a resumed run
            break
        chance = rng(seed, "ratio", "batch", step)
        if fresh is None:
            inputs = given(*fit.draw(config.batch_size, chance))
        else:
            index = by_label.draw(config.batch_size, chance)
            inputs = batch(index, ratio.standardise(fresh(labels_real[index], step)))
        losses = []
        for number in best.running:
            chance = rng(seed, "ratio", "dropout", number, step, device=device)
            losses.append(_loss(nets[number].train()(*inputs, chance), config))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()

        stage.report(2 * config.batch_size, loss=torch.stack(losses).mean().detach())
        if (step + 1) % per_epoch == 0:  # once per pass: reading the losses waits for the device
            with torch.no_grad():
                best.judge({number: float(_loss(nets[number].eval()(*judged), config)) for number in best.running})

    # --- the best network, calibrated on held-out pairs
    chosen = int(best.losses.argmin())
    ratio.net.load_state_dict(best.weights[chosen])
    final = given(*held.draw(max(FINAL_PAIRS, num_late), rng(seed, "ratio", "final")))
    late_fakes = features_fake[late_fake.to(device)], labels_fake[late_fake].to(device)
    found = calibrate(ratio.eval(), final, *late_fakes, prior=1 / num_late, apply=config.calibrated)
    ratio.facts = found | {
        "dropout": config.dropout[chosen],
        "held_out_loss": best.losses[chosen].item(),
        "epoch": float(best.epochs[chosen]),
    }
    return ratio


def _pairs(task: Task, labels_real: Tensor, labels_fake: Tensor, use_real: Tensor, use_fake: Tensor) -> Pairs:
    """Pairs of the samples that are used.

    Raises:
        DataError: there is none.
    """
    found = Pairs(task, labels_real, labels_fake, use_real, use_fake)
    if not found.groups:
        raise DataError(
            f"the density ratio needs at least 2 real and 2 fake samples of the same label, got none such "
            f"among {len(labels_real)} real and {len(labels_fake)} fake samples; generate more of each label"
        )
    return found


def _networks(task: Task, features: Tensor, config: RatioConfig, seed: int) -> tuple[DensityRatio, nn.ModuleList]:
    """The ratio, which standardises by mean and spread of `features` (n, F), and a network for each dropout."""
    width, device = features.shape[1], features.device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "ratio", "weights"))
        ratio = DensityRatio(task, width, config.hidden, config.output).to(device)
        nets = nn.ModuleList(
            RatioNet(task, width, config.hidden, config.output, dropout).to(device) for dropout in config.dropout
        )
    std, mean = torch.std_mean(features.float(), 0)  # (F,)
    ratio.mean.copy_(mean)
    # Features that hardly vary keep their size: magnified, they would be noise.
    ratio.std.copy_(torch.where(std > 1e-6 * std.max(), std, 1.0).nan_to_num(1.0))
    return ratio, nets


def _loss(values: Tensor, config: RatioConfig) -> Tensor:
    """Loss () of a network's outputs (2 B,) for B pairs, real ones first."""
    of_real, of_fake = values.chunk(2)  # (B,) each
    if config.loss == "logistic":
        return logistic_ratio_loss(of_fake, of_real)
    if config.loss == "softplus":
        return softplus_ratio_loss(of_fake, of_real, config.penalty)
    return ulsif_ratio_loss(of_fake, of_real, config.penalty)


class _Best:
    """The best (or else the last) weights so far of each candidate, and which still improve; part of the checkpoint."""

    def __init__(self, nets: nn.ModuleList, patience: int, *, last: bool = False) -> None:
        self._nets, self._patience, self._last = nets, patience, last
        self.losses = torch.full((len(nets),), torch.inf, dtype=torch.float64)
        self.epochs = [0] * len(nets)
        self.weights = [self._copy(net) for net in nets]
        self._epoch = 0

    @property
    def running(self) -> list[int]:
        """Candidates that have improved within `patience` epochs."""
        return [number for number, epoch in enumerate(self.epochs) if self._epoch - epoch < self._patience]

    @property
    def finished(self) -> bool:
        """Has every candidate stopped?"""
        return not self.running

    def judge(self, losses: dict[int, float]) -> None:
        """Note one epoch's held-out losses of the running candidates."""
        self._epoch += 1
        for number, loss in losses.items():
            if loss != loss:
                raise TrainingError("ratio: the held-out loss became nan; lower lr or use loss=logistic")
            if self._last or loss < self.losses[number]:
                self.losses[number], self.epochs[number] = loss, self._epoch
                self.weights[number] = self._copy(self._nets[number])

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"losses": self.losses, "epochs": self.epochs, "weights": self.weights, "epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.losses, self.epochs, self._epoch = state["losses"], list(state["epochs"]), state["epoch"]
        self.weights = state["weights"]

    @staticmethod
    def _copy(net: nn.Module) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in net.state_dict().items()}


def _check(features_real: Tensor, labels_real: Tensor, features_fake: Tensor, labels_fake: Tensor) -> None:
    for name, features, labels in (
        ("real", features_real, labels_real),
        ("fake", features_fake, labels_fake),
    ):
        if features.ndim != 2 or len(features) != len(labels):
            raise ModelError(
                f"{name} features must be (N, F) with N labels, got {tuple(features.shape)} and {len(labels)} labels"
            )
        wrong = ~features.isfinite().all(1)  # (N,)
        if wrong.any():
            raise DataError(
                f"{int(wrong.sum())} of {len(features)} {name} samples have features that are not finite; "
                "check the network that computes them"
            )
    if features_real.shape[1] != features_fake.shape[1]:
        raise ModelError(
            f"real and fake features must have the same width, got {features_real.shape[1]} and "
            f"{features_fake.shape[1]}; compute both with the same network"
        )
