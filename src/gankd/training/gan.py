"""Train a conditional GAN: by class (cGAN) or by a continuous label (CcGAN). One loop; they differ in how a batch is
drawn and in the label input of the networks.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from gankd.config import check_ranges, require, suggest
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.architectures import ARCHITECTURES, with_batch_norm
from gankd.generators.diff_augment import DiffAugmentation, diff_augment, stored_policy
from gankd.generators.label_embedding import LabelInput, LabelToEmbedding
from gankd.generators.networks import LatentGenerator, to_float
from gankd.generators.projected import FeatureDiscriminator
from gankd.generators.published import Init, initialise
from gankd.losses.adversarial import GanLoss, discriminator_loss, generator_loss, squared_gradient
from gankd.losses.nearest import PER_GAP, NearestVicinity
from gankd.losses.vicinal import Vicinity, VicinityKind
from gankd.models.contract import ImageModel
from gankd.models.tapped import Tapped
from gankd.models.taps import find_taps
from gankd.ranges import MOST, AboveZero, AtLeastZero, BelowOne, Count, CountOrZero, UpToOne, Width, ZeroToOne
from gankd.runs import Stage
from gankd.seeds import BLOCK, rng
from gankd.settings import explained
from gankd.tasks import Classification, Task
from gankd.training.gan_batches import ClassBatches, VicinalBatches
from gankd.training.gan_health import HealthCheck, refuse_collapse
from gankd.training.label_embedding import train_label_embedding


@explained
@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """Settings of the generator and its training."""

    where: ClassVar[str] = "gan."

    external: str | None = None
    """An existing generator, in place of a trained one: module:name, a folder or file of labelled images, the
    generator.safetensors of another run, diffusers:FOLDER, or hf:user/name with one of these."""
    architecture: str = "residual"
    """residual: small networks for short trainings; the others are published ones, see `gankd list generators`."""
    steps: Count = 3000
    """Generator updates."""
    batch_size: Annotated[int, Field(ge=4, le=MOST)] = 64
    """Real images, and as many generated ones, in each step."""
    loss: GanLoss = "hinge"
    """Adversarial loss; relativistic compares real with generated images in pairs."""
    d_steps: Count = 1
    """Discriminator updates per generator update."""
    lr_g: UpToOne = 1e-3
    """Learning rate of the generator."""
    lr_d: UpToOne = 2e-3
    """Learning rate of the discriminator."""
    betas: tuple[BelowOne, BelowOne] = (0.0, 0.9)
    """Decay of Adam's two moving averages."""
    width_g: Width = 32
    """Channels of the generator at full resolution."""
    width_d: Width = 32
    """Channels of the discriminator at full resolution."""
    z_dim: Width = 32
    """Size of the noise."""
    embedding_width: Width = 32
    """Size of the label's embedding."""
    label_input: LabelInput = "learned"
    """Continuous labels only: learned (Fourier features), nli or ili."""
    ili_updates: Count = 1000
    """Updates of each of the two networks of ILI."""
    vicinity: VicinityKind = "soft"
    """Continuous labels only: soft is SVDL, hard is HVDL."""
    vicinity_m: AboveZero = 2.0
    """Vicinity's radius in units of the largest gap between labels. Labels of several values: eight times as many
    nearest labels."""
    sigma: ZeroToOne | None = None
    """Standard deviation of label noise on the [0, 1] scale; default: 1.06 std N^(-1/5), or N^(-1 / (n + 4)) and the
    covariance of the labels for n values."""
    kappa: UpToOne | None = None
    """Radius of the vicinity on the [0, 1] scale; default: vicinity_m times the largest gap."""
    spectral_norm: bool = True
    """Spectral normalisation of every layer of the discriminator except the label embedding."""
    batch_norm: bool = True
    """Batch normalisation in the generator."""
    penalty: Literal["none", "r1", "r1r2"] = "none"
    """Gradient penalty: r1 with the logistic loss, r1r2 with the relativistic loss, in general."""
    penalty_weight: AtLeastZero | None = None
    """Weight of the penalty. Default: (side / 16)^2, that is 1 at 16 pixels; the gradient of a score adds up over
    pixels."""
    penalty_every: Count = 1
    """Apply the penalty every n-th discriminator update, n times as strong."""
    diff_augment: tuple[DiffAugmentation, ...] = ()
    """Random changes of all images that the discriminator sees; leaks into samples below 16 pixels. color and colour,
    and translation and shift, are the same."""
    flip: bool = False
    """Mirror every second real image."""
    teacher_features: bool = False
    """A second discriminator reads the teacher's feature maps: usable images after a tenth of the updates. Estimate the
    ratio on other features then: the generator has been optimised against the teacher's."""
    ema_half_life: UpToOne = 0.05
    """Half-life of the averaged generator, as a share of the run; ramped up from the start."""
    ema_decay: BelowOne | None = None
    """Decay of the averaged generator per update, in place of ema_half_life."""
    ema_start: CountOrZero = 0
    """Updates before which the average is a plain copy."""
    lr_decay: bool = True
    """Learning rates fall to a tenth over the second half of the run."""
    adam_eps: UpToOne = 1e-8
    """Number that Adam adds to its denominators."""
    accumulate: Count = 1
    """Batches of batch_size whose gradients are added up for one update."""
    init: Init = "default"
    """Initial weights of convolutions and linear layers; normal: standard deviation 0.02."""
    health_checks: CountOrZero = 8
    """Number of times in a run that the teacher judges the generator."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "diff_augment", stored_policy(self.diff_augment))
        require(
            self.architecture in ARCHITECTURES,
            f"gan.architecture: no architecture {self.architecture!r}; {suggest(self.architecture, ARCHITECTURES)}",
        )
        check_ranges(self)
        require(
            self.batch_norm or ARCHITECTURES[self.architecture].batch_norm,
            f"gan.batch_norm=false is for gan.architecture={with_batch_norm()}, got {self.architecture}",
        )

    @property
    def check_every(self) -> int:
        """Updates between two judgements of the generator; more than there are without any before the end."""
        return max(self.steps // self.health_checks, 1) if self.health_checks else self.steps + 1

    def learning_rate_factor(self, step: int) -> float:
        """Learning rates of a step, as a share of `lr_g` and `lr_d`: 1, then down to a tenth to settle the samples."""
        return min(1.0, 1.9 - 1.8 * step / self.steps) if self.lr_decay else 1.0


def relativistic(config: GanConfig) -> GanConfig:
    """`config` with the relativistic loss and R1 + R2 instead of normalisation (Huang et al., NeurIPS 2024)."""
    return replace(
        config,
        loss="relativistic",
        penalty="r1r2",
        spectral_norm=False,
        batch_norm=False,
        betas=(0.0, 0.99),
        lr_d=config.lr_g,
    )


def logistic(config: GanConfig) -> GanConfig:
    """`config` with the non-saturating loss and lazy R1 (Mescheder et al., ICML 2018)."""
    return replace(
        config,
        loss="logistic",
        penalty="r1",
        penalty_every=8,
        spectral_norm=False,
        betas=(0.0, 0.99),
        lr_d=config.lr_g,
    )


def fitted_vicinity(train: LabelledImages, config: GanConfig) -> Vicinity | NearestVicinity:
    """Vicinity of continuous labels that `config` asks for.

    Raises:
        ConfigError: a radius for labels of several values. DataError: all labels are equal.
    """
    labels = train.task.targets(train.labels).cpu()  # (N,) or (N, n), in [0, 1]
    if labels.ndim == 2:
        require(
            config.kappa is None,
            f"gan.kappa is the radius around one value; the vicinity of labels of {labels.shape[1]} values are the "
            f"nearest labels, {PER_GAP} times gan.vicinity_m of them; leave it out, got {config.kappa}",
        )
        return NearestVicinity.fit(labels, config.vicinity, config.sigma, config.vicinity_m)
    return Vicinity.fit(labels, config.vicinity, config.sigma, config.kappa, config.vicinity_m)


def build_generator(
    task: Task, shape: tuple[int, int, int], config: GanConfig, seed: int, ili: LabelToEmbedding | None = None
) -> LatentGenerator:
    """A generator with new random weights.

    Raises:
        ConfigError: the architecture does not make images of that size.
    """
    settings: dict[str, Any] = {
        "width": config.width_g,
        "z_dim": config.z_dim,
        "label_input": config.label_input,
        "embedding_width": config.embedding_width,
        "ili": ili,
    }
    architecture = ARCHITECTURES[config.architecture]
    if architecture.batch_norm:
        settings["batch_norm"] = config.batch_norm
    make, _ = architecture.pair()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator: LatentGenerator = make(task, shape, **settings)
        initialise(generator, config.init)
    return generator


def build_discriminator(
    task: Task, shape: tuple[int, int, int], config: GanConfig, seed: int, ili: LabelToEmbedding | None = None
) -> nn.Module:
    """A discriminator with new random weights.

    Raises:
        ConfigError: the architecture does not read images of that size.
    """
    settings: dict[str, Any] = {
        "width": config.width_d,
        "label_input": config.label_input,
        "embedding_width": config.embedding_width,
        "spectral": config.spectral_norm,
        "ili": ili,
    }
    _, make = ARCHITECTURES[config.architecture].pair()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)  # other weights than the generator's
        discriminator: nn.Module = make(task, shape, **settings)
        initialise(discriminator, config.init)
    return discriminator


class GanTrainer:
    """The two networks, their optimisers and the two kinds of update."""

    def __init__(
        self,
        train: LabelledImages,
        config: GanConfig,
        engine: Engine,
        seed: int,
        ili: LabelToEmbedding | None,
        teacher: ImageModel | None = None,
    ) -> None:
        self.config, self.engine, self.seed = config, engine, seed
        self.train_set = train.to(engine.device)
        # Batches and label input are the two things in which a GAN for classes and one for values differ.
        # Classes are drawn equally often; values in vicinities (CcGAN).
        self.batches = (
            ClassBatches(train, config.batch_size, seed)
            if isinstance(train.task, Classification)
            else VicinalBatches(train.task, fitted_vicinity(train, config), config.batch_size)
        )
        _, height, width = train.shape
        self.penalty_weight = height * width / 256 if config.penalty_weight is None else config.penalty_weight
        self.generator = engine.place(build_generator(train.task, train.shape, config, seed, ili))
        self.discriminator = engine.place(build_discriminator(train.task, train.shape, config, seed, ili))
        self.teacher: Tapped | None = None
        self.critic: FeatureDiscriminator | None = None
        if config.teacher_features:
            assert teacher is not None
            self.teacher, self.critic = self._look_through(engine.place(teacher).eval(), train, ili)
        self.discriminators = nn.ModuleList(filter(None, (self.discriminator, self.critic)))
        self.networks = nn.ModuleList([self.generator, self.discriminators])
        self.optimizer_g, self.optimizer_d = (
            torch.optim.Adam(net.parameters(), lr, betas=config.betas, eps=config.adam_eps, fused=True)
            for net, lr in ((self.generator, config.lr_g), (self.discriminators, config.lr_d))
        )
        self.schedule_g, self.schedule_d = (
            torch.optim.lr_scheduler.LambdaLR(optimizer, config.learning_rate_factor)
            for optimizer in (self.optimizer_g, self.optimizer_d)
        )
        self._keep = 0.0  # share of the average that an update keeps
        self.ema = AveragedModel(
            self.generator,
            multi_avg_fn=lambda averaged, current, _: torch._foreach_lerp_(averaged, current, 1 - self._keep),
        )

    def _look_through(
        self, teacher: ImageModel, train: LabelledImages, ili: LabelToEmbedding | None
    ) -> tuple[Tapped, FeatureDiscriminator]:
        """The teacher with its two deepest maps as outputs, and a discriminator of these."""
        images = self.train_set.images[:2]
        taps = find_taps(teacher, images)[-2:]
        require(bool(taps), "gan.teacher_features=true, but no feature maps were found in the teacher; leave it out")
        tapped = Tapped(teacher, taps)
        with torch.no_grad():
            shapes = [(found.shape[1], found.shape[2], found.shape[3]) for found in tapped(images).features]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 2)
            critic = FeatureDiscriminator(
                train.task,
                shapes,
                width=2 * self.config.width_d,
                label_input=self.config.label_input,
                embedding_width=self.config.embedding_width,
                ili=ili,
            )
        return tapped, self.engine.place(critic)

    def _latent(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, self.generator.z_dim, generator=generator).to(self.engine.device)

    def _real(self, index: Tensor, generator: torch.Generator) -> Tensor:
        images = to_float(self.train_set.images[index.to(self.engine.device)])  # (N, C, H, W) in [-1, 1]
        if self.config.flip:
            mirror = (torch.rand(len(images), generator=generator) < 0.5).to(self.engine.device)
            images = torch.where(mirror[:, None, None, None], images.flip(3), images)
        return images

    def _augmented(self, images: Tensor, random: torch.Generator) -> Tensor:
        if self.engine.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return diff_augment(images, self.config.diff_augment, random)

    def _maps(self, images: Tensor, random: torch.Generator) -> list[Tensor]:
        """The teacher's maps of images in [-1, 1]."""
        assert self.teacher is not None
        return self.teacher((diff_augment(images, self.config.diff_augment, random) + 1) / 2).features

    def discriminator_step(self, draw: int) -> Tensor:
        """The `draw`-th update of the discriminator, on `accumulate` batches; returns its loss."""
        count = self.config.accumulate
        penalised = self.config.penalty != "none" and draw % self.config.penalty_every == 0
        self.optimizer_d.zero_grad(set_to_none=True)
        losses = [self._discriminator_gradient(draw * count + part, penalised) for part in range(count)]
        self.optimizer_d.step()
        return torch.stack(losses).mean()

    def _discriminator_gradient(self, number: int, penalised: bool) -> Tensor:
        """Add the gradient of the `number`-th batch, divided by the batches of an update; returns the loss."""
        config, device = self.config, self.engine.device
        random = rng(self.seed, "gan d", number)
        batch = self.batches.draw(number, random)
        target = batch.target.to(device)
        real, z = self._real(batch.real_index, random), self._latent(len(target), random)
        judge = partial(self._judge, penalised=penalised)
        found = self.engine.shards(judge, random, real, z, batch.fake_labels.to(device), target, trains=self.networks)
        weights = [w if w is None else w.to(device) for w in (batch.real_weight, batch.fake_weight)]
        loss = total = discriminator_loss(config.loss, *found["scores"], *weights)
        if penalised:
            # Both penalties are means over their own half; over all images they would come out halved.
            strength = 2 * self.penalty_weight * config.penalty_every
            total = loss + strength * torch.cat(found["penalties"]).mean() / 2
        (total / config.accumulate).backward()
        if self.critic is not None:
            self._critic_gradient(random, real, found["fake"], target, weights)
        return loss.detach()

    def _critic_gradient(
        self, random: torch.Generator, real: Tensor, fake: Tensor, target: Tensor, weights: list[Tensor | None]
    ) -> None:
        """Add the gradient of the discriminator of the teacher's maps, always by the hinge loss."""
        assert self.critic is not None
        # (N, S) each: one score per map and place
        scores = self.engine.shards(self._judge_maps, random, real, fake, target, trains=self.critic)
        with self.engine.autocast():
            # A weight belongs to an image, and so to each of its S scores.
            repeated = [w if w is None else w.repeat_interleave(scores[0].shape[1]) for w in weights]
            loss = discriminator_loss("hinge", *(half.flatten() for half in scores), *repeated)
            (loss / self.config.accumulate).backward()

    def _judge_maps(self, random: torch.Generator, real: Tensor, fake: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Scores of the teacher's maps of real and of generated images."""
        assert self.critic is not None
        with float32_spectral_norm(self.critic), self.engine.autocast():
            with torch.no_grad():
                maps = self._maps(torch.cat([real, fake]), random)
            return self.critic(maps, torch.cat([target, target])).chunk(2)

    def _judge(
        self, random: torch.Generator, real: Tensor, z: Tensor, fake_labels: Tensor, target: Tensor, penalised: bool
    ) -> dict[str, Any]:
        """Scores of real images (N, C, H, W) and of as many generated ones, their penalties, and the latter."""
        device = self.engine.device
        with torch.no_grad(), float32_spectral_norm(self.generator), self.engine.autocast():
            fake = self.generator(z, fake_labels).float()
        both, labels = torch.cat([real, fake]).requires_grad_(penalised), torch.cat([target, target])  # 2 N rows
        with float32_spectral_norm(self.discriminator):
            # Second derivatives in bfloat16 are mostly rounding, so penalised updates run in float32.
            with torch.autocast(device.type, enabled=False) if penalised else self.engine.autocast():
                # Real and fake go through in one call: one update of the spectral norms, half the launches.
                scores = self.discriminator(self._augmented(both, random), labels)
            found = {"scores": scores.float().chunk(2), "fake": fake}
            if penalised:
                real_scores, fake_scores = found["scores"]
                wanted = real_scores.sum() + fake_scores.sum() * (self.config.penalty == "r1r2")
                found["penalties"] = squared_gradient(wanted[None], both).chunk(2)
        return found

    def generator_step(self, step: int) -> Tensor:
        """One update of the generator, on `accumulate` batches, and of its average; returns its loss."""
        config, count = self.config, self.config.accumulate
        # The discriminator only passes gradients on; frozen, it need not compute its own.
        judges = itertools.chain(self.discriminators.parameters(), self.teacher.parameters() if self.teacher else ())
        trainable = [parameter for parameter in judges if parameter.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        self.optimizer_g.zero_grad(set_to_none=True)
        losses = [self._generator_gradient(step * count + part) for part in range(count)]
        self.optimizer_g.step()
        for parameter in trainable:  # not the frozen label input of ILI
            parameter.requires_grad_(True)
        self._keep = 0.0 if step < config.ema_start else self._decay(step)
        self.ema.update_parameters(self.generator)
        return torch.stack(losses).mean()

    def _generator_gradient(self, number: int) -> Tensor:
        """Add the gradient of the `number`-th batch, divided by the batches of an update; returns the loss."""
        config, device = self.config, self.engine.device
        random, real = rng(self.seed, "gan g", number), None
        if config.loss == "relativistic":  # compares with real images, other than the discriminator's
            batch = self.batches.draw(config.steps * config.d_steps * config.accumulate + number, random)
            target = batch.target.to(device)
            real = self._augmented(self._real(batch.real_index, random), random)
        else:
            target = self.batches.targets(config.batch_size, random).to(device)
        z = self._latent(len(target), random)
        found = self.engine.shards(self._please, random, z, target, real, trains=self.networks)
        loss = generator_loss(config.loss, found["scores"], found.get("real"))
        if self.critic is not None:
            loss = loss + generator_loss("hinge", found["critic"].flatten())
        (loss / config.accumulate).backward()
        return loss.detach()

    def _please(self, random: torch.Generator, z: Tensor, target: Tensor, real: Tensor | None) -> dict[str, Tensor]:
        """Scores of N generated images by the discriminators, and of real ones if there are any."""
        found = {}
        with float32_spectral_norm(self.discriminators, self.generator), self.engine.autocast():
            if real is not None:
                found["real"] = self.discriminator(real, target)
            fake = self.generator(z, target).float()
            found["scores"] = self.discriminator(self._augmented(fake, random), target)
            if self.critic is not None:
                found["critic"] = self.critic(self._maps(fake, random), target)
        return found

    def _decay(self, step: int) -> float:
        """Share of the average that an update keeps: as set, or by half-life, ramped up."""
        config = self.config
        if config.ema_decay is not None:
            return config.ema_decay
        target = 0.5 ** (1 / max(config.ema_half_life * config.steps, 1))
        return min(target, (1 + step) / (10 + step))

    def averaged(self) -> LatentGenerator:
        """The averaged generator in eval mode, its batch normalisation measured again on 4,096 samples."""
        generator: LatentGenerator = self.ema.module  # type: ignore[assignment]
        norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean over all batches
            generator.train()
            for number in range(4096 // BLOCK):
                random = rng(self.seed, "gan statistics", number)
                labels = self.batches.targets(BLOCK, random).to(self.engine.device)
                with torch.no_grad(), float32_spectral_norm(generator), self.engine.autocast():
                    generator(self._latent(BLOCK, random), labels)
        return generator.eval()


@contextmanager
def float32_spectral_norm(*modules: nn.Module) -> Iterator[None]:
    """Compute every spectrally normalised weight once, in float32, before autocast can touch it."""
    with parametrize.cached():
        for part in itertools.chain.from_iterable(module.modules() for module in modules):
            if parametrize.is_parametrized(part):
                _ = part.weight
        yield


def train_gan(
    train: LabelledImages,
    val: LabelledImages,
    teacher: ImageModel,
    config: GanConfig,
    engine: Engine,
    seed: int,
    stage: Stage | None = None,
) -> LatentGenerator:
    """Train a conditional GAN on `train`, or up to `stage.until`; return the averaged generator in eval mode.


    `teacher` judges the samples now and then; it trains the generator only with `teacher_features`. `val` serves ILI's
    first network.

    Raises:
        TrainingError: a loss is not finite, or the generator collapsed (two checks in a row, past a fifth of the run).
        DataError: continuous labels that are all equal.
    """
    stage = stage or Stage("gan")
    stage.begin()
    ili = None
    if config.label_input == "ili":
        ili = train_label_embedding(train, val, config.ili_updates, engine, seed, stage)
    trainer = GanTrainer(train, config, engine, seed, ili, teacher)
    # Judged now and then, so that a collapse ends the run early.
    health = HealthCheck(engine.place(teacher), train, engine, seed)
    state = {
        "generator": trainer.generator,
        "discriminators": trainer.discriminators,
        "optimizer_g": trainer.optimizer_g,
        "optimizer_d": trainer.optimizer_d,
        "schedule_g": trainer.schedule_g,
        "schedule_d": trainer.schedule_d,
        "ema": trainer.ema,
    }
    for step in stage.steps(config.steps, **state):
        trainer.generator.train()
        trainer.discriminators.train()
        for number in range(config.d_steps):
            d_loss = trainer.discriminator_step(step * config.d_steps + number)
        g_loss = trainer.generator_step(step)
        trainer.schedule_g.step()
        trainer.schedule_d.step()
        stage.report(config.batch_size * config.accumulate, d_loss=d_loss, g_loss=g_loss)
        if (step + 1) % config.check_every == 0 and step + 1 < config.steps:
            found = health(trainer.averaged())
            stage.log(step=step + 1, **found)
            refuse_collapse(stage, (step + 1) / config.steps)
    generator = trainer.averaged()
    if stage.until is not None and stage.until < config.steps:
        return generator
    stage.log(step=config.steps, **health(generator), real_teacher=health.real_score)
    refuse_collapse(stage, 1.0)
    return generator
