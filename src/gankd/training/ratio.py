"""Train the density ratio on features that were computed once: a small network, seconds of work."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import check_ranges, require
from gankd.errors import DataError, ModelError, TrainingError
from gankd.losses.density_ratio import logistic_ratio_loss, softplus_ratio_loss, ulsif_ratio_loss
from gankd.ranges import AtLeastZero, BelowOne, Count, CountFromTwo, UpToOne, Within
from gankd.runs import Stage
from gankd.seeds import derive_seed, rng
from gankd.subsampling.ratio_net import LOG_LIMIT, DensityRatio, Head, RatioNet
from gankd.tasks import Task

NEAREST = 16
"""A real label is paired with fakes of equal label and, where these are fewer, of the nearest labels."""
JUDGED_PAIRS = 2048
"""Held-out pairs, drawn evenly over label groups, that judge each epoch; more where more are held out."""
FINAL_PAIRS = 16384
"""Held-out pairs that calibrate the chosen network and give the facts."""
PRIOR_FAKES = 20.0
"""Shrinkage of a group's mean ratio: as if so many of its fakes had the mean ratio of all."""


@dataclass(frozen=True, kw_only=True)
class RatioConfig:
    """How p_real / p_fake is estimated. `published_ratio()` gives the paper's settings."""

    where: ClassVar[str] = "ratio."

    loss: Literal["logistic", "softplus", "ulsif"] = "logistic"
    """`logistic` learns log-ratios and is bounded below; `softplus` is published, `ulsif` least squares."""
    head: Literal["auto", "log", "relu", "softplus"] = "auto"
    """The network's output: `auto` is log for logistic, relu (published) for softplus, softplus for ulsif."""
    penalty: AtLeastZero = 0.01
    """lambda of the softplus loss: pulls the fakes' mean ratio to 1."""
    features: Literal["teacher", "classifier", "autoencoder"] = "teacher"
    """Network whose features are compared: the teacher, or one trained for this as in the paper."""
    hidden: tuple[int, ...] = (256, 128, 64)
    dropout: tuple[BelowOne, ...] = (0.2, 0.5)
    """Candidates, trained side by side; held-out loss chooses. Small real sets need the larger one."""
    epochs: Count = 200
    """Most passes over the real samples."""
    patience: Count = 20
    """Passes without a lower held-out loss after which a candidate stops."""
    keep: Literal["best", "last"] = "best"
    """Weights of the pass with the lowest held-out loss, or (published) of the last one, whatever the patience."""
    batch_size: CountFromTwo = 256
    """Real samples, and fakes, in each step."""
    lr: UpToOne = 1e-3
    decay_at: tuple[Within, ...] = ()
    """Shares of the epochs after each of which the learning rate falls to a tenth."""
    weight_decay: BelowOne = 1e-4
    held_out: Within = 0.25
    """Share of real and of fake samples that stop, choose and calibrate instead of train."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            len(self.hidden) > 0 and all(width >= 32 and width % 8 == 0 for width in self.hidden),
            f"ratio.hidden must be widths that are multiples of 8 and at least 32, got {list(self.hidden)}",
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

    @property
    def output(self) -> Head:
        """The network's head."""
        if self.head != "auto":
            return self.head
        heads: dict[str, Head] = {"logistic": "log", "softplus": "relu", "ulsif": "softplus"}
        return heads[self.loss]


def published_ratio(
    hidden: tuple[int, ...] = (2048, 1024, 512, 256, 128), *, epochs: int = 200, drops: tuple[int, ...] = (80, 150)
) -> RatioConfig:
    """The estimator cDRE of Ding et al. (2023): softplus loss, MLP-5, dropout 0.5, a tenth of the learning rate after
    epochs 80 and 150 of 200, the last one kept.

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
) -> DensityRatio:
    """Estimate log p_real(x given y) / p_fake(x given y) on features.

    Every step draws label groups evenly, a real sample of each, and a fake of the same or nearest label; both
    enter with the real one's label, so that labels alone tell nothing. Held-out samples end training, choose
    the dropout and
    calibrate: slope and offset by logistic regression (Platt), then a mean ratio of 1 over each group's
        fakes.

    Args:
        features_real: (N, F) features, any float type, on the device to train on.
        labels_real: (N,) labels in user units.
        features_fake: (M, F) features of generated images, computed in the same way from uint8 images.
        labels_fake: (M,) their assigned labels.
        task: what the labels are.
        config: settings.
        seed: of splits, weights, batches and dropout.
        stage: keeps checkpoints and shows progress.

    Returns:
        The ratio in eval mode. Its `facts` are measured on held-out pairs: `auc` of telling real from fake
        (0.5: no difference), `mean_ratio_fake` and `mean_inverse_ratio_real` (both 1 for the true ratio,
        before the normaliser), `mean_ratio_real`, `held_out_loss`, `dropout`, `epoch`, `slope`, `offset`, and
        `advice`, empty when there is nothing to say.

    Raises:
        ModelError: the features do not fit each other.
        DataError: features are not finite, or too few samples share a label.
        TrainingError: the loss is not finite.
    """
    stage = stage or Stage("ratio")
    device = features_real.device
    _check(features_real, labels_real, features_fake, labels_fake)
    labels_real, labels_fake = labels_real.cpu(), labels_fake.cpu()
    late_real = _held_out(task.groups(labels_real), config.held_out, seed, "real")
    late_fake = _held_out(task.groups(labels_fake), config.held_out, seed, "fake")
    fit = _Pairs(task, labels_real, labels_fake, ~late_real, ~late_fake)
    held = _Pairs(task, labels_real, labels_fake, late_real, late_fake)
    if not (fit.groups and held.groups):
        raise DataError(
            f"the density ratio needs at least 2 real and 2 fake samples of the same label, got none such "
            f"among {len(labels_real)} real and {len(labels_fake)} fake samples; generate more of each label"
        )

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "ratio", "weights"))
        ratio = DensityRatio(task, features_real.shape[1], config.hidden, config.output).to(device)
        nets = nn.ModuleList(
            RatioNet(task, features_real.shape[1], config.hidden, config.output, dropout).to(device)
            for dropout in config.dropout
        )
    std, mean = torch.std_mean(features_real[(~late_real).to(device)].float(), 0)
    ratio.mean.copy_(mean)
    ratio.std.copy_(torch.where(std > 1e-6 * std.max(), std, 1.0).nan_to_num(1.0))  # constants stay near 0
    real, fake = ratio.standardise(features_real), ratio.standardise(features_fake)
    labels = labels_real.to(device)

    def batch(real_index: Tensor, fake_index: Tensor) -> tuple[Tensor, Tensor]:
        """Features of pairs, reals first, and the labels that condition both."""
        r, f = real_index.to(device), fake_index.to(device)
        return torch.cat([real[r], fake[f]]), labels[r].repeat(2)

    def objective(values: Tensor) -> Tensor:
        of_real, of_fake = values.chunk(2)
        if config.loss == "logistic":
            return logistic_ratio_loss(of_fake, of_real)
        if config.loss == "softplus":
            return softplus_ratio_loss(of_fake, of_real, config.penalty)
        return ulsif_ratio_loss(of_fake, of_real)

    num_late = int(late_real.sum())
    judged = batch(*held.draw(max(JUDGED_PAIRS, num_late), rng(seed, "ratio", "judged")))
    per_epoch = -(-(len(late_real) - num_late) // config.batch_size)
    drops = [round(share * config.epochs) for share in config.decay_at]
    best = _Best(nets, config.patience, last=config.keep == "last")
    optimizer = torch.optim.Adam(
        nets.parameters(), config.lr, betas=(0.5, 0.999), weight_decay=config.weight_decay, fused=True
    )
    for step in stage.steps(config.epochs * per_epoch, nets=nets, optimizer=optimizer, best=best):
        if best.finished:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.1 ** sum(step // per_epoch >= drop for drop in drops)
        inputs = batch(*fit.draw(config.batch_size, rng(seed, "ratio", "batch", step)))
        losses = []
        for number in best.running:
            net = nets[number].train()
            losses.append(objective(net(*inputs, rng(seed, "ratio", "dropout", number, step, device=device))))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        stage.report(2 * config.batch_size, loss=torch.stack(losses).mean().detach())
        if (step + 1) % per_epoch == 0:
            with torch.no_grad():
                best.judge({number: float(objective(nets[number].eval()(*judged))) for number in best.running})

    chosen = int(best.losses.argmin())
    ratio.net.load_state_dict(best.weights[chosen])
    ratio.eval()
    final = held.draw(max(FINAL_PAIRS, num_late), rng(seed, "ratio", "final"))
    with torch.no_grad():
        raw_real, raw_fake = ratio.net.log_ratio(*batch(*final)).double().chunk(2)
    slope, offset = platt(raw_fake, raw_real, prior=1 / num_late)
    ratio.calibration.copy_(torch.tensor([slope, offset]))
    late = late_fake.to(device)
    scores = ratio.log_ratio(features_fake[late], labels_fake.to(device)[late])
    ratio.log_normaliser.copy_(_log_group_means(scores, task.groups(labels_fake.to(device)[late]), task.num_groups))

    log_fake = (slope * raw_fake + offset).clamp(-LOG_LIMIT, LOG_LIMIT)
    log_real = (slope * raw_real + offset).clamp(-LOG_LIMIT, LOG_LIMIT)
    auc = area_under_curve(log_fake, log_real)
    ratio.facts = {
        "auc": auc,
        "mean_ratio_fake": log_fake.exp().mean().item(),
        "mean_ratio_real": log_real.exp().mean().item(),
        "mean_inverse_ratio_real": (-log_real).exp().mean().item(),
        "dropout": config.dropout[chosen],
        "held_out_loss": best.losses[chosen].item(),
        "epoch": float(best.epochs[chosen]),
        "slope": slope,
        "offset": offset,
        "advice": _advice(auc),
    }
    return ratio


def platt(log_ratio_fake: Tensor, log_ratio_real: Tensor, prior: float = 0.0) -> tuple[float, float]:
    """Slope >= 0 and offset that calibrate log-ratios: a logistic regression of real against fake, by Newton.

    With equal weight for both sides its optimum is the log-ratio itself, so a calibrated score has slope 1,
    offset 0.

    Args:
        log_ratio_fake: (N,) scores of held-out fakes.
        log_ratio_real: (M,) scores of held-out reals.
        prior: weight of ((slope - 1)^2 + offset^2) / 2 beside the mean loss; keeps separable samples finite.

    Returns:
        (slope, offset); (0, 0) where scores and origin disagree, that is, where the scores are worse than
        none.
    """
    score = torch.cat([log_ratio_fake, log_ratio_real]).double()
    sign = torch.cat([torch.ones_like(log_ratio_fake), -torch.ones_like(log_ratio_real)]).double()
    weight = torch.cat([torch.full_like(x, 0.5 / len(x)) for x in (log_ratio_fake, log_ratio_real)]).double()
    design = torch.stack([score, torch.ones_like(score)], 1)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64, device=score.device)

    def loss(at: Tensor) -> Tensor:
        return (weight * F.softplus(sign * (design @ at))).sum() + prior / 2 * (at - start).square().sum()

    theta = start
    for _ in range(100):
        chance = (design @ theta).sigmoid()
        gradient = design.T @ (weight * (chance - (sign < 0).double())) + prior * (theta - start)
        curvature = design.T @ (design * (weight * chance * (1 - chance))[:, None])
        curvature = curvature + (prior + 1e-12) * torch.eye(2, dtype=torch.float64, device=score.device)
        move = torch.linalg.solve(curvature, gradient)
        size = 1.0  # halved until the loss falls: far from the optimum Newton's step can overshoot
        while size > 1e-6 and loss(theta - size * move) > loss(theta):
            size /= 2
        theta = theta - size * move
        if move.abs().max() < 1e-10:
            break
    slope, offset = theta.tolist()
    return (slope, offset) if slope > 0 else (0.0, 0.0)


def area_under_curve(fake: Tensor, real: Tensor) -> float:
    """Chance that a real sample scores above a fake one, ties counting half: (N,), (M,) -> [0, 1]."""
    ordered = fake.sort().values
    below = torch.searchsorted(ordered, real.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, real.contiguous(), right=True)
    return ((below + up_to).double().mean() / (2 * len(fake))).item()


class _Pairs:
    """Draws (real, fake) index pairs of like labels, evenly over the label groups that have both.

    Relies on groups that rise with the label, as classes and bins do.
    """

    def __init__(self, task: Task, real: Tensor, fake: Tensor, use_real: Tensor, use_fake: Tensor) -> None:
        self._real, self._fake = (
            index[labels[index].argsort(stable=True)]
            for labels, index in ((real, use_real.nonzero()[:, 0]), (fake, use_fake.nonzero()[:, 0]))
        )
        y, z = real[self._real], fake[self._fake]
        self._count = task.groups(y).bincount(minlength=task.num_groups)
        self._start = self._count.cumsum(0) - self._count
        fakes = task.groups(z).bincount(minlength=task.num_groups)
        self._groups = ((self._count > 0) & (fakes > 0)).nonzero()[:, 0]
        self.groups = len(self._groups)

        # Fakes of equal label, widened to at least NEAREST by neighbours in label order within the group.
        low, high = torch.searchsorted(z, y, right=False), torch.searchsorted(z, y, right=True)
        missing = (NEAREST - (high - low)).clamp_min(0)
        end = fakes.cumsum(0)[task.groups(y)]
        self._low = torch.maximum(low - (missing + 1) // 2, end - fakes[task.groups(y)])
        self._high = torch.minimum(high + (missing + 1) // 2, end)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` real and as many fake indices (on the CPU)."""
        turn = torch.randperm(self.groups, generator=generator)
        group = self._groups[turn[torch.arange(count) % self.groups]]
        which, whose = torch.rand(2, count, generator=generator, dtype=torch.float64)
        real = self._start[group] + (which * self._count[group]).long()
        low = self._low[real]
        return self._real[real], self._fake[low + (whose * (self._high[real] - low)).long()]


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


def _held_out(groups: Tensor, share: float, seed: int, name: str) -> Tensor:
    """(N,) bool: about `share` of each group, drawn at random, and never a group's only sample."""
    shuffled = torch.randperm(len(groups), generator=rng(seed, "ratio", "held-out", name))
    order = shuffled[groups[shuffled].argsort(stable=True)]
    count = groups.bincount()
    rank = torch.arange(len(order)) - (count.cumsum(0) - count)[groups[order]]
    late = torch.minimum((share * count).round().long().clamp_min(1), count - 1)
    return torch.empty(len(groups), dtype=torch.bool).scatter(0, order, rank < late[groups[order]])


def _log_group_means(log_ratio: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) log of the mean ratio of each group, shrunk towards the mean of all."""
    ratio = log_ratio.double().exp()
    total = torch.zeros(num_groups, dtype=torch.float64, device=ratio.device).scatter_add(0, groups, ratio)
    count = groups.bincount(minlength=num_groups)
    return ((total + PRIOR_FAKES * ratio.mean()) / (count + PRIOR_FAKES)).log().float()


def _advice(auc: float) -> str:
    if auc < 0.53:
        return f"no difference found (AUC {auc:.3f}): subsampling has nothing to gain"
    if auc > 0.98:
        return (
            f"real and fake are told apart almost without error (AUC {auc:.3f}): the generator is too weak "
            "and the ratios are unreliable; train the generator longer"
        )
    return ""


def _check(features_real: Tensor, labels_real: Tensor, features_fake: Tensor, labels_fake: Tensor) -> None:
    for name, features, labels in (
        ("real", features_real, labels_real),
        ("fake", features_fake, labels_fake),
    ):
        if features.ndim != 2 or len(features) != len(labels):
            raise ModelError(
                f"{name} features must be (N, F) with N labels, got {tuple(features.shape)} and {len(labels)} labels"
            )
        wrong = ~features.isfinite().all(1)
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
