"""Train a generator of outputs on the outputs of a network, without affecting that network.

The generator sees detached outputs and has its own random numbers: a network with a generator trained alongside ends
bit for bit as it would without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from gankd.config import check_ranges
from gankd.losses.adversarial import discriminator_loss, generator_loss
from gankd.losses.vicinal import Vicinity
from gankd.ranges import AtLeastZero, BelowOne, Bins, Count, CountFromTwo, CountOrZero, Few, Temperature, UpToOne, Width
from gankd.seeds import derive_seed, rng
from gankd.settings import explained
from gankd.storage import restore_optimizer
from gankd.tasks import Task
from gankd.virtual.networks import (
    DiscriminatorInput,
    KnowledgeDiscriminator,
    KnowledgeGenerator,
    read_table,
    table_rows,
)

SLOW = 20_000
"""Number of steps from which on the default learning rate is lower."""
RING = 8192
"""Number of outputs kept to sample vicinities from, for values."""
BANDWIDTH = 0.02
"""Width of the kernel that averages outputs over neighbouring values, as a share of the label range."""


@explained
@dataclass(frozen=True, kw_only=True)
class VirtualConfig:
    """Training of the virtual teacher's generator. Defaults are the preset `robust`."""

    where: ClassVar[str] = "virtual."

    temperature: Temperature | None = None
    """T that softens the teacher's outputs; default: 4 for classes, 1 for bins of values."""
    when: Literal["auto", "beside", "after"] = "auto"
    """Time of its training. beside: alongside the teacher, on the outputs of its updates; after: only on stored outputs
    of the trained teacher; auto: beside if the teacher is one network for classes that is trained here."""
    loss: Literal["hinge", "logistic"] = "hinge"
    """Adversarial loss; logistic is the non-saturating one."""
    anchor: AtLeastZero = 1.0
    """Weight of the class-mean anchor; 0 leaves only the adversarial loss."""
    mean_table: bool = True
    """Start from a table of class means."""
    discriminator_steps: Count = 1
    """Discriminator updates per generator update."""
    discriminator_input: DiscriminatorInput = "sqrt"
    """Form of the probabilities that the discriminator reads: square roots, as they are, or centred logarithms."""
    spectral_norm: bool = False
    """Spectral normalisation of the discriminator."""
    lr: UpToOne | None = None
    """Learning rate of both networks; default: 2e-3, and 5e-4 from 20,000 steps on."""
    ema: BelowOne = 0.999
    """Decay of the moving average of the generator's weights, which is kept."""
    z_dim: Width | None = None
    """Size of the noise; default: 64, and 32 for fewer than 50 classes or bins."""
    width: Width | None = None
    """Width of hidden layers; default: the power of 2 above twice the number of outputs, from 128 to 1024."""
    every: Count = 16
    """Updates of the teacher per step of the generator, which learns from the last `batch_size` outputs."""
    warmup: Count = 100
    """Updates of the teacher before the generator begins; they give the first class means."""
    polish: CountOrZero = 1000
    """Steps on stored outputs of the finished teacher, with the learning rate falling to 0."""
    views: Few = 4
    """Number of augmented views of each training image whose outputs are stored."""
    batch_size: CountFromTwo = 256
    """Batch size of a step (an upper bound when trained alongside the teacher)."""
    bins: Bins = 50
    """Number of bins of a distribution over values."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def temperature_for(self, task: Task) -> float:
        """T for this task."""
        return self.temperature or task.soft_temperature

    def num_outputs(self, task: Task) -> int:
        """K: classes, or bins of a distribution over values."""
        return task.distribution_size(self.bins)


def faithful(config: VirtualConfig) -> VirtualConfig:
    """Settings that add nothing to the abstract: only an adversarial loss, alongside the teacher, at every update."""
    return replace(config, anchor=0.0, mean_table=False, every=1, polish=0)


def mean_anchor(first: Tensor, second: Tensor, means: Tensor) -> Tensor:
    """K mean_b <q1_b - m_b, q2_b - m_b>, a scalar: its expectation is K |E q - m|^2, whatever the spread of q.

    Two independent samples per label: the square of one would also count its variance and drive that to 0.

    Args:
        first, second: (N, K) probabilities drawn independently for the same labels.
        means: (N, K) mean probabilities of these labels.
    """
    return first.shape[1] * ((first - means) * (second - means)).sum(1).mean()


def build_generator(task: Task, config: VirtualConfig) -> KnowledgeGenerator:
    """A generator for this task, with weights from torch's global random numbers."""
    outputs = config.num_outputs(task)
    return KnowledgeGenerator(
        task, outputs, _z_dim(config, outputs), _width(config, outputs), mean_table=config.mean_table
    )


def _z_dim(config: VirtualConfig, outputs: int) -> int:
    return config.z_dim or (32 if outputs < 50 else 64)


def _width(config: VirtualConfig, outputs: int) -> int:
    return config.width or min(1024, max(128, 1 << (2 * outputs - 1).bit_length()))


@contextmanager
def _trainable(module: nn.Module) -> Iterator[None]:
    """Enable gradients of the parameters within the block."""
    module.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)


def grid_kernel(labels: Tensor, rows: int) -> Tensor:
    """(R, N) Gaussian weights of labels (N,) in [0, 1] at the points of a grid over [0, 1]."""
    grid = torch.linspace(0, 1, rows, device=labels.device)
    return (-0.5 * ((grid[:, None] - labels) / BANDWIDTH).square()).exp()


def label_means(probs: Tensor, labels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Mean probabilities (R, K) of each class, or at each point of a grid over [0, 1], and their weight (R,).

    Args:
        probs: (N, K).
        labels: (N,) classes, or values on the [0, 1] scale.
        rows: R.
    """
    if labels.is_floating_point():
        kernel = grid_kernel(labels, rows)
        total, weight = kernel @ probs, kernel.sum(1)
    else:
        weight = probs.new_zeros(rows).index_add_(0, labels, torch.ones_like(probs[:, 0]))
        total = probs.new_zeros(rows, probs.shape[1]).index_add_(0, labels, probs)
    return total / weight.clamp_min(1e-12)[:, None], weight


class KnowledgeGan(nn.Module):
    """Generator, discriminator, their optimisers and the running class means; all of it in `state_dict`.

    Parameters require gradients only within a step, so that no other optimiser includes them.

    Args:
        task: of the labels.
        config: settings.
        seed: of weights and noise.
        total: number of steps to come, which decides the default learning rate.
    """

    mean_sum: Tensor
    mean_weight: Tensor

    def __init__(self, task: Task, config: VirtualConfig, seed: int, total: int = 0) -> None:
        super().__init__()
        self.task, self.config, self.seed = task, config, seed
        self.num_outputs = config.num_outputs(task)
        self.temperature = config.temperature_for(task)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "virtual"))
            self.generator = build_generator(task, config)
            self.ema = build_generator(task, config)
            self.discriminator = KnowledgeDiscriminator(
                task,
                self.num_outputs,
                _width(config, self.num_outputs),
                reads=config.discriminator_input,
                normed=config.spectral_norm,
            )
        self.ema.load_state_dict(self.generator.state_dict())
        self.register_buffer("mean_sum", torch.zeros(table_rows(task), self.num_outputs))
        self.register_buffer("mean_weight", torch.zeros(table_rows(task)))
        self.requires_grad_(False)
        self.eval()
        self._base_lr = config.lr or (2e-3 if total < SLOW else 5e-4)
        self.observed = self.steps = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._ring: tuple[Tensor, Tensor] | None = None
        self._make_optimizers()

    def _make_optimizers(self) -> None:
        fused = {"lr": self._base_lr, "betas": (0.0, 0.9), "fused": True}
        self._optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), **fused)  # type: ignore[arg-type]
            for name in ("generator", "discriminator")
        }

    # --- outputs --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """True once the generator has taken a step."""
        return self.steps > 0

    def means(self) -> Tensor:
        """(R, K) running mean probability of each class, or at each point of the grid; uniform where none was seen."""
        seen = self.mean_weight[:, None] > 1e-12
        uniform = torch.full_like(self.mean_sum, 1 / self.num_outputs)
        return torch.where(seen, self.mean_sum / self.mean_weight[:, None].clamp_min(1e-12), uniform)

    @torch.no_grad()
    def observe(self, outputs: Tensor, labels: Tensor, keep: Tensor | None = None) -> None:
        """Learn from the outputs of one training step.

        Args:
            outputs: (N, K) logits; nothing flows back to them.
            labels: (N,) classes, or values on the [0, 1] scale.
            keep: (N,) rows that count; default: all.
        """
        self.observed += 1
        if keep is not None:
            outputs, labels = outputs[keep], labels[keep]
        self._waiting.append((outputs.detach(), labels.detach()))
        # Most updates of the teacher stop here; the work is done for several at once.
        if len(self._waiting) == self.config.every or self.observed == self.config.warmup:
            self._learn()

    def _learn(self) -> None:
        """Learn from the collected outputs: class means first, and a step once they are known."""
        updates = len(self._waiting)
        outputs, labels = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        probs = (outputs.float() / self.temperature).softmax(1)
        self._update_means(probs, labels, updates)
        if self.observed == self.config.warmup:
            self.start()
        elif self.observed > self.config.warmup and len(probs) >= 2:
            self.step(probs[-self.config.batch_size :], labels[-self.config.batch_size :])

    def _update_means(self, probs: Tensor, labels: Tensor, updates: int) -> None:
        """Exponential mean with decay 0.98 per update; a class changes if one of these updates holds it."""
        means, weight = label_means(probs, labels, len(self.mean_weight))
        # A value adds to nearby rows of the grid by kernel weight; from a hundredth of an image on, a row counts fully.
        share = (1 - 0.98**updates) * (weight / 0.01).clamp_max(1)
        self.mean_sum += share[:, None] * (means - self.mean_sum)
        self.mean_weight += share * (1 - self.mean_weight)

    def set_means(self, means: Tensor, weight: Tensor) -> None:
        """Replace the running means by exact ones."""
        self.mean_sum.copy_(means * (weight > 0)[:, None])
        self.mean_weight.copy_((weight > 0).float())

    def start(self) -> None:
        """Start the generator at the class means known so far."""
        self.generator.start_at(self.means())
        self.ema.load_state_dict(self.generator.state_dict())

    # --- one step -------------------------------------------------------------------------------------------

    @torch.enable_grad()
    def step(self, probs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator (or several) and one of the generator, in float32 also under autocast.

        Args:
            probs: (N, K) softened outputs, without gradient.
            labels: (N,) classes, or values on the [0, 1] scale.

        Returns:
            Losses, on the device: discriminator, adversary, anchor.
        """
        with torch.autocast(probs.device.type, enabled=False):
            return self._step(probs.float(), labels)

    def _step(self, probs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        config, device = self.config, probs.device
        noise = rng(self.seed, "virtual", self.steps, device=device)
        probs, real_labels, fake_labels, target, weights = self._conditions(probs, labels)
        count = len(target)
        with _trainable(self.discriminator):
            for _ in range(config.discriminator_steps):
                with torch.no_grad():
                    z = torch.randn(count, self.generator.z_dim, generator=noise, device=device)
                    fake = self.generator(z, fake_labels).softmax(1)
                self.discriminator.train()
                scores = self.discriminator(torch.cat([probs, fake]), torch.cat([target, target]))
                d_loss = discriminator_loss(config.loss, scores[:count], scores[count:], *weights)
                self._descend("discriminator", d_loss)
                self.discriminator.eval()
        with _trainable(self.generator):
            z = torch.randn(2 * count, self.generator.z_dim, generator=noise, device=device)
            draws = self.generator(z, torch.cat([real_labels, real_labels])).softmax(1)
            adversary = generator_loss(config.loss, self.discriminator(draws, torch.cat([real_labels, real_labels])))
            anchor = mean_anchor(draws[:count], draws[count:], read_table(self.means(), real_labels))
            self._descend("generator", adversary + config.anchor * anchor)
        self.steps += 1
        decay = min(config.ema, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - decay)
        return {"discriminator": d_loss.detach(), "adversary": adversary.detach(), "anchor": anchor.detach()}

    def _conditions(
        self, probs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor | None, Tensor | None]]:
        """Real outputs, labels for the generator's step, labels of samples, labels that the discriminator reads, and
        weights of real outputs and of samples.

        For classes all labels are equal. For values they are vicinities of labels drawn from the last outputs (CcGAN).
        """
        if not labels.is_floating_point():
            return probs, labels, labels, labels, (None, None)
        if self._ring is None:
            self._ring = probs, labels
        else:
            old_probs, old_labels = self._ring
            self._ring = torch.cat([old_probs, probs])[-RING:], torch.cat([old_labels, labels])[-RING:]
        kept, kept_labels = self._ring
        if kept_labels.min() == kept_labels.max():
            return probs, labels, labels, labels, (None, None)
        vicinity = Vicinity.fit(kept_labels, "soft", m=1.0)
        draw = vicinity.draw(len(labels), rng(self.seed, "vicinity", self.steps))
        target = draw.target.to(labels)
        return (
            kept[draw.real_index.to(kept.device)],
            target.clamp(0, 1),
            draw.fake_label.to(labels),
            target,
            (draw.real_weight.to(labels), draw.fake_weight.to(labels)),
        )

    def _descend(self, name: str, loss: Tensor) -> None:
        optimizer = self._optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def schedules(self, steps: int) -> dict[str, LambdaLR]:
        """Learning rates of both networks that fall linearly to 0 in `steps`."""
        return {
            f"schedule_{name}": LambdaLR(optimizer, lambda step: 1 - step / steps)
            for name, optimizer in self._optimizers.items()
        }

    @torch.no_grad()
    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Centred logits (N, K) at the temperature, of the averaged generator, one sample per label."""
        z = torch.randn(len(labels), self.ema.z_dim, generator=generator, device=labels.device)
        return self.ema(z, labels)

    # --- checkpoint -----------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """State other than the module's tensors: optimisers, counters, outputs collected for the next step."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "observed": self.observed,
            "steps": self.steps,
            "waiting": list(self._waiting),
            "ring": list(self._ring or ()),
        }

    def set_extra_state(self, state: Any) -> None:
        """Inverse of `get_extra_state`."""
        for name, optimizer in self._optimizers.items():
            restore_optimizer(optimizer, state["optimizers"][name])
        self.observed, self.steps = state["observed"], state["steps"]
        device = self.mean_sum.device
        self._waiting = [(probs.to(device), labels.to(device)) for probs, labels in state["waiting"]]
        ring = [part.to(device) for part in state["ring"]]
        self._ring = (ring[0], ring[1]) if ring else None
