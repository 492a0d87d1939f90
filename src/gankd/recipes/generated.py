"""Generator, density ratio, pool and selection: how a run gets its generated images, stage by stage."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.config import from_dict, require, to_dict
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import CheckpointError, TrustError
from gankd.generators.copies import nearest
from gankd.generators.external import (
    ExternalGenerator,
    Generator,
    ImagePool,
    OfAnotherRun,
    Shape,
    is_code,
    open_external,
)
from gankd.generators.networks import LatentGenerator
from gankd.models.contract import ImageModel, predict, predict_with_features
from gankd.models.network_files import is_network_file
from gankd.parted import is_parted
from gankd.recipes.config import SynthConfig, TeacherConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.teacher import finished_teacher, teacher_stage
from gankd.runs import Stage, fingerprint
from gankd.seeds import BLOCK, derive_seed, rng
from gankd.storage import FORMAT, fill, fitting, load_state, restore, save_state, write_hashed_json
from gankd.subsampling.autoencoder import SparseAutoencoder
from gankd.subsampling.ratio_net import DensityRatio
from gankd.synthetic import Sampler, SelectConfig, Selection, SyntheticSet, check_space, generate, select
from gankd.tasks import Task, task_from_dict, task_to_dict
from gankd.training.autoencoder import train_autoencoder
from gankd.training.gan import GanConfig, build_generator, train_gan
from gankd.training.gan_health import HealthCheck
from gankd.training.ratio import RatioConfig, train_ratio
from gankd.training.supervised import train_supervised

CLASSIFIER = "resnet20"
"""Network that is trained for the features of the density ratio, where these are not the teacher's."""

COMPARED_IMAGES = 1000
"""Generated images that are compared with every real one."""

# --- generator ----------------------------------------------------------------------------------------------


def gan_stage(experiment: Experiment, config: GanConfig, teacher: Stage) -> Stage:
    """Identity and state of the generator.

    Raises:
        ConfigError, DataError, ModelError: an external generator cannot be found or used.
    """
    if config.external is None:
        return experiment.stage("gan", config, teacher=teacher.fingerprint)
    # The content of an external generator counts, not how another would be trained.
    inputs = {"teacher": teacher.fingerprint, "generator": external_generator(experiment, config.external).fingerprint}
    return experiment.stage("gan", {"external": True}, **inputs)


def external_generator(experiment: Experiment, source: str) -> ExternalGenerator:
    """Open the generator that a user brings: a module, function, folder or file (`gan.external`)."""
    key = f"external generator {source}"
    if key not in experiment.memory:
        train = experiment.splits.train
        experiment.memory[key] = _external(
            source, train.task, train.shape, experiment.engine.device, experiment.live.get(source)
        )
    found: ExternalGenerator = experiment.memory[key]
    return found


def _external(source: str, task: Task, shape: Shape, device: torch.device, found: Any = None) -> ExternalGenerator:
    """A generator that `open_external` opens, or that another run trained."""
    if found is not None or not source.endswith(".safetensors"):
        return open_external(source, task, shape, device, found)
    trained = load_generator(Path(source))
    if not isinstance(trained, LatentGenerator):
        raise CheckpointError(f"{source} names another generator ({trained.what}); name that one as gan.external")
    return OfAnotherRun(trained, Path(source), task, shape).to(device).eval()


def make_generator(experiment: Experiment, teacher: ImageModel, config: GanConfig, stage: Stage) -> Generator:
    """Train the generator, restore it, or check the user's own; in eval mode, with averaged weights.

    Args:
        experiment: images, device, seed.
        teacher: judges the generator while it is trained.
        config: settings.
        stage: where it is kept.

    Raises:
        TrainingError: the generator collapsed or diverged.
        ModelError: an external one gives something else than images.
    """
    if stage.fingerprint not in experiment.memory:
        experiment.memory[stage.fingerprint] = _generator(experiment, teacher, config, stage)
    found: Generator = experiment.memory[stage.fingerprint]
    return found


def first_check(experiment: Experiment, teacher: ImageModel, config: GanConfig, stage: Stage) -> dict[str, Any]:
    """Health of the generator at its first check; it is trained only up to there, and `make_generator` goes on.

    Args:
        experiment, teacher, config, stage: as for `make_generator`.
    """
    if config.external is not None or config.check_every >= config.steps:
        make_generator(experiment, teacher, config, stage)
    begun = replace(stage, until=config.check_every)
    lines = stage.history or begun.stored_history()
    if not any("frechet" in line for line in lines):
        splits, seed = experiment.splits, experiment.recipe.seed
        train_gan(splits.train, splits.val, teacher, config, experiment.engine, seed, begun)
        lines = begun.history
    return next(line for line in lines if "frechet" in line)


def finished_generator(experiment: Experiment, config: GanConfig) -> Generator:
    """The generator that is finished, in eval mode.

    Raises:
        ConfigError: it is not.
    """
    teacher = teacher_stage(experiment, experiment.recipe.teacher)
    stage = gan_stage(experiment, config, teacher)
    require(stage.done, f"no finished generator in {experiment.run.folder}; train it with gan or run")
    return make_generator(experiment, finished_teacher(experiment, experiment.recipe.teacher), config, stage)


def _generator(experiment: Experiment, teacher: ImageModel, config: GanConfig, stage: Stage) -> Generator:
    splits, engine, seed = experiment.splits, experiment.engine, experiment.recipe.seed
    path = stage.path("generator.safetensors")
    if config.external is not None:
        external = external_generator(experiment, config.external)
        if not stage.done:  # judged once
            stage.begin()
            health = HealthCheck(engine.place(teacher), splits.train, engine, seed)
            stage.log(step=0, **health(external), real_teacher=health.real_score)
            save_generator(path, external, splits.train, config)
            stage.finish(health=stage.history[-1])
        return external
    if stage.done:
        kept = load_generator(path)
        return engine.place(kept) if isinstance(kept, LatentGenerator) else kept
    generator = train_gan(splits.train, splits.val, teacher, config, engine, seed, stage)
    save_generator(path, generator, splits.train, config)
    stage.finish(health=stage.history[-1])
    return generator


def save_generator(path: Path, generator: Generator, train: LabelledImages, config: GanConfig) -> None:
    """Write a generator with all that is needed to sample from it; of an external one, where it is and its hash."""
    trained = config.external is None and isinstance(generator, LatentGenerator)
    save_state(
        path,
        {
            "format": FORMAT,
            "task": task_to_dict(train.task),
            "shape": train.shape,
            "labels": train.labels.cpu(),
            "config": to_dict(config),
            "state": generator.state_dict() if trained else {},  # type: ignore[attr-defined]
            **({} if trained else {"fingerprint": generator.fingerprint}),  # type: ignore[attr-defined]
        },
    )


def load_generator(
    path: Path, *, trust: bool = False, trusted: Collection[str] = ()
) -> LatentGenerator | ExternalGenerator:
    """Read a generator from its own file, in eval mode and in the memory layout of its size, on the CPU.

    An external one must be where it was.

    Args:
        path: the file.
        trust: import the module that the file names if the generator is somebody's own code (module:name).
        trusted: code that may be run without it.

    Raises:
        CheckpointError: missing, damaged, or not a generator. TrustError: it is code that is not trusted.
    """
    stored = load_state(path)
    if not isinstance(stored, dict) or "task" not in stored or "state" not in stored:
        raise CheckpointError(f"{path} is not a generator; the gan stage writes generator.safetensors")
    try:
        config = from_dict(GanConfig, stored["config"], str(path))
        task, state = task_from_dict(stored["task"]), dict(stored["state"])
        channels, height, width = (int(number) for number in stored["shape"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a complete generator ({type(error).__name__} {error})") from None
    shape = (channels, height, width)
    if config.external is not None:
        if not trust and is_code(config.external) and config.external not in trusted:
            raise TrustError(
                f"{path} names the generator {config.external!r}, code that is not part of gankd and is not run "
                "unasked; if you trust the file and that module: add --trust"
            )
        external = _external(config.external, task, shape, torch.device("cpu"))
        if external.fingerprint != stored.get("fingerprint"):
            raise CheckpointError(f"{external.what} has changed since {path} was made; run the gan stage again")
        return external
    problem = f"{path} is not a complete generator"
    generator = fitting(lambda: build_generator(task, shape, config, seed=0), state, problem)
    fill(generator, state, problem)
    return Engine.pick(min(shape[1:]), "cpu").place(generator.eval())


def sample_images(generator: Generator, labels: Tensor, seed: int, purpose: str) -> Tensor:
    """Sample uint8 images (N, C, H, W) for labels (N,), in blocks with random numbers of their own."""
    return torch.cat(
        [
            generator.sample(chunk, generator=rng(seed, purpose, block)).cpu()
            for block, chunk in enumerate(labels.split(BLOCK))
        ]
    )


# --- density ratio ------------------------------------------------------------------------------------------


def ratio_stage(experiment: Experiment, config: RatioConfig, gan: Stage) -> Stage:
    """Identity and state of the density ratio.

    Raises:
        ConfigError: features of the teacher are compared, and only its outputs can be read.
    """
    teacher = experiment.recipe.teacher.model
    require(
        config.features != "teacher" or not is_network_file(teacher),
        f"ratio.features=teacher reads the embedding of the teacher, but {teacher} gives only its outputs; add "
        "--set ratio.features=classifier",
    )
    return experiment.stage("ratio", config.identity, gan=gan.fingerprint)


class RatioFeatures:
    """Features (N, F) in which the density ratio compares images: those of one network."""

    def __init__(self, network: ImageModel | SparseAutoencoder, experiment: Experiment) -> None:
        self.network, self._engine = network, experiment.engine

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, F) of uint8 images (N, C, H, W)."""
        if isinstance(self.network, ImageModel):
            return predict_with_features(self.network, images, self._engine)[1]
        return self.network.encode_in_batches(images, self._engine)

    def outputs(self, images: Tensor) -> Tensor:
        """The network's outputs (N, K) or (N,), on the CPU."""
        if isinstance(self.network, ImageModel):
            return predict(self.network, images, self._engine).cpu()
        return self.network.predict_in_batches(images, self._engine).cpu()


def make_ratio_features(
    experiment: Experiment, teacher: ImageModel, config: RatioConfig, settings: TeacherConfig, stage: Stage
) -> RatioFeatures:
    """Train or restore the network in whose features real and generated images are compared.

    Args:
        experiment: images, device, seed.
        teacher: is that network for ratio.features=teacher.
        config: which network.
        settings: the teacher's, by which another classifier or an autoencoder is trained.
        stage: the density ratio's; the network is a part of it.
    """
    if config.features == "teacher":
        return RatioFeatures(teacher, experiment)
    splits, engine = experiment.splits, experiment.engine
    part = stage.part(config.features)
    path, seed = part.path("model.safetensors"), derive_seed(experiment.recipe.seed, "ratio features")
    key = f"{part.fingerprint} features"
    if key not in experiment.memory:
        network: ImageModel | SparseAutoencoder
        if config.features == "classifier":
            network = experiment.model(CLASSIFIER, seed)
        else:
            network = engine.place(SparseAutoencoder(splits.task, splits.train.shape, seed))
        if path.is_file():
            restore(network, path)
        else:
            if isinstance(network, ImageModel):
                train_supervised(network, splits.train, splits.val, settings, engine, seed, part)
            else:
                train_autoencoder(network, splits.train, settings.updates, engine, seed, part)
            save_state(path, network.state_dict())
        experiment.memory[key] = network.eval()
    return RatioFeatures(experiment.memory[key], experiment)


def make_ratio(
    experiment: Experiment, features: RatioFeatures, generator: Generator, config: RatioConfig, stage: Stage
) -> DensityRatio:
    """Estimate log p_real / p_generated on features, or restore it; in eval mode, with its facts.

    Args:
        experiment: images, device, seed.
        features: in which images are compared.
        generator: whose images are compared with the training images.
        config: settings.
        stage: where it is kept.
    """
    train, seed = experiment.splits.train, experiment.recipe.seed
    if stage.done:
        width = features(train.images[:2]).shape[1]
        ratio = DensityRatio(train.task, width, config.hidden, config.output)
        ratio.facts = stage.result or {}
        return restore(ratio, stage.path("ratio.safetensors")).to(experiment.engine.device)
    stage.begin()
    count = max(2 * len(train), 2048)
    labels = train.task.sample_labels(count, train.labels.cpu(), "empirical", rng(seed, "ratio labels"))
    if isinstance(generator, ImagePool):
        index = generator.take(labels, generator=rng(seed, "ratio images"))
        images, labels = generator.images[index], generator.labels[index]
    else:
        # Not the pool's: log-ratios of images that the network is fitted on would tell what it remembers of each.
        images = sample_images(generator, labels, seed, "ratio")

    def fresh(labels: Tensor, step: int) -> Tensor:
        if isinstance(generator, ImagePool):
            return features(generator.images[generator.take(labels, generator=rng(seed, "ratio images", step))])
        return features(sample_images(generator, labels, seed, f"ratio step {step}"))

    ratio = train_ratio(
        features(train.images),
        train.labels,
        features(images),
        labels,
        train.task,
        config,
        seed,
        stage,
        fresh=fresh if config.fresh else None,
    )
    save_state(stage.path("ratio.safetensors"), ratio.state_dict())
    stage.finish(**ratio.facts)
    if ratio.facts.get("advice"):
        experiment.say("ratio", str(ratio.facts["advice"]))
    return ratio


# --- pool ---------------------------------------------------------------------------------------------------


def synth_stage(experiment: Experiment, config: SynthConfig, ratio: Stage) -> Stage:
    """Identity and state of the pool; selections from it are not part of it."""
    return experiment.stage("synth", config.identity, ratio=ratio.fingerprint)


def bytes_per_image(experiment: Experiment) -> int:
    """Disk space of a generated image with its label, teacher output and ratio, at most."""
    channels, height, width = experiment.splits.train.shape
    return channels * height * width + 4 * (experiment.splits.task.head_size + 3)


def check_disk(experiment: Experiment, config: SynthConfig, stage: Stage) -> None:
    """Raise RunError if the pool does not fit on the disk: before hours of training, not after."""
    if not stage.done and not stage.path("pool").exists():
        check_space(experiment.run.folder, config.pool * bytes_per_image(experiment))


def open_pool(experiment: Experiment, stage: Stage) -> SyntheticSet:
    """The pool of a finished stage."""
    if stage.fingerprint not in experiment.memory:
        experiment.memory[stage.fingerprint] = SyntheticSet(stage.path("pool"))
    found: SyntheticSet = experiment.memory[stage.fingerprint]
    return found


def copies(experiment: Experiment, pool: SyntheticSet) -> tuple[int, float, float]:
    """Images of a pool that are copies of a training and of a test image, in per cent, and how many were compared.

    Test images were never shown to the generator: theirs is the share that chance gives.
    """
    order = torch.randperm(len(pool), generator=rng(0, "report copies"))
    device, splits = experiment.engine.device, experiment.splits
    images = pool.images(order[:COMPARED_IMAGES]).to(device)
    of_train, of_test = (nearest(images, part.images.to(device)).percent for part in (splits.train, splits.test))
    return len(images), of_train, of_test


def make_pool(
    experiment: Experiment,
    teacher: ImageModel,
    generator: Generator,
    features: RatioFeatures,
    ratio: DensityRatio,
    config: SynthConfig,
    stage: Stage,
    provenance: dict[str, str],
) -> SyntheticSet:
    """Sample the pool of generated images and store each with the teacher's output and its density ratio.

    Args:
        experiment: images, device, seed.
        teacher: gives outputs for filter and labels.
        generator: makes the images.
        features, ratio: give log p_real / p_generated.
        config: settings.
        stage: where the pool is kept.
        provenance: fingerprints of generator and ratio.

    Raises:
        RunError: the disk is too small. ModelError: an output is not finite.
    """
    if stage.done:
        return open_pool(experiment, stage)
    train, engine, seed = experiment.splits.train, experiment.engine, experiment.recipe.seed
    stage.begin()
    labels = train.task.sample_labels(config.pool, train.labels.cpu(), config.labels, rng(seed, "pool labels"))
    sampler: Sampler = generator.sample
    if isinstance(generator, ImagePool):
        index = generator.take(labels, generator=rng(seed, "pool images"))
        if len(index) < len(labels):
            what = f"{generator.what} has images for {len(index):,} of {len(labels):,} labels, none used twice"
            experiment.say("synth", what)
        labels, sampler = generator.labels[index], generator.in_blocks(index, seed, "sample")

    def score(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # With teacher features, one pass of the teacher serves ratio, filter and soft labels.
        if features.network is teacher:
            outputs, found = predict_with_features(teacher, images, engine)
        else:
            outputs, found = predict(teacher, images, engine), features(images)
        return outputs, ratio.log_ratio(found, labels.to(found.device))

    pool = generate(
        stage.path("pool"),
        sampler,
        score,
        train.task,
        labels,
        seed,
        provenance=provenance,
        progress=stage.progress,
        together=is_parted(teacher),
    )
    stage.finish(count=len(pool))
    return pool


# --- selection ----------------------------------------------------------------------------------------------


def real_scores(experiment: Experiment, teacher: ImageModel) -> tuple[Tensor, Tensor]:
    """The teacher's disagreement (V,) on validation images and their label groups (V,); these calibrate the filter."""
    val = experiment.splits.val
    outputs, labels = predict(teacher, val.images, experiment.engine).cpu(), val.labels.cpu()
    return val.task.disagreement(outputs, labels), val.task.groups(labels)


def select_images(
    experiment: Experiment, pool: SyntheticSet, teacher: ImageModel, config: SelectConfig, stage: Stage
) -> Selection:
    """Choose generated images from the pool by density ratio and the teacher's filter, and adjust their labels.

    Args:
        experiment: seed and validation images.
        pool: scored images.
        teacher: calibrates the filter on real images where the settings ask for it.
        config: settings.
        stage: the pool's; what was kept is written there.
    """
    key = f"{stage.fingerprint} {fingerprint(to_dict(config))}"
    if key not in experiment.memory:
        scores = real_scores(experiment, teacher) if config.filter == "real_calibrated" else (None, None)
        chosen = select(pool, config, experiment.recipe.seed, *scores)
        experiment.memory[key] = chosen
        # What was kept of every label, thresholds and histograms: the log of this selection.
        log = stage.path(f"selection-{fingerprint(to_dict(config))[:8]}.json")
        if not log.is_file():
            write_hashed_json(log, {"config": to_dict(config), **chosen.report})
    found: Selection = experiment.memory[key]
    return found
