"""Cost of the steps of each stage on this machine, timed on untrained networks or estimated from shapes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gankd.bench.cost import Peak, autoencoder_step, gan_step, machine_speed, sampling_step, training_step
from gankd.console import Console
from gankd.data.images import LabelledImages
from gankd.models.contract import predict_with_features
from gankd.processes import agreed
from gankd.recipes.arms import Arm
from gankd.recipes.config import TeacherConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import CLASSIFIER, external_generator, sample_images
from gankd.recipes.given import input_size
from gankd.recipes.students import assistant_configs, new_student
from gankd.recipes.teacher import other_teacher, untrained_teacher
from gankd.recipes.virtual import untrained_virtual
from gankd.recipes.workers import one_thread
from gankd.runs import Stage
from gankd.seeds import BLOCK
from gankd.subsampling.autoencoder import SparseAutoencoder
from gankd.text import duration
from gankd.training.autoencoder import train_autoencoder
from gankd.training.distill import distill
from gankd.training.gan import GanTrainer
from gankd.training.label_embedding import train_label_embedding
from gankd.training.lesson import Lesson
from gankd.training.supervised import train_supervised
from gankd.virtual import KnowledgeGan

SLOW_STEP = 1.0
"""Seconds from which on a step is timed once."""
LONGEST_STEP = 10.0
"""Seconds from which on a step of a published table is not timed at all."""


IMAGES = 256
"""Training images with which steps of students are timed, at most."""


class StepTime(NamedTuple):
    """Cost of one step."""

    seconds: float = 0.0
    """Wall time."""
    cpu: float = 0.0
    """CPU time of all threads, from which other programs take nothing on a busy machine."""
    counted: bool = False
    """True if estimated from the shapes of networks."""


class Timer:
    """Times steps and prints what was timed.

    Args:
        console: where it is printed.
        count: estimate long steps from the shapes of networks.
        on: count all steps, for a machine that is not here; those of unknown work cost nothing.
    """

    def __init__(self, console: Console | None = None, *, count: bool = False, on: Peak | None = None) -> None:
        self.console, self.count, self.on = console or Console("quiet"), count, on

    @cached_property
    def speed(self) -> float:
        """Operations per second here."""
        return machine_speed()

    def __call__(self, what: str, work: Callable[[int], None], operations: Callable[[], float]) -> StepTime:
        """Seconds of one step of `work`, which takes `operations` floating-point operations (0: unknown)."""
        if self.on is not None:
            guess = operations() / self.on.speed
            return StepTime(guess, guess, counted=True)
        guess = operations() / self.speed if self.count else 0.0
        if guess > LONGEST_STEP:
            self.console.say(f"{what:<40} about {duration(guess)} a step, from shapes: too long to time")
            return StepTime(guess, guess, counted=True)
        found = step_time(work)
        self.console.say(f"{what:<40} {found.seconds:.2g} s a step")
        return found


def step_time(
    work: Callable[[int], None],
    few: int = 1,
    many: int = 5,
    clocks: Sequence[Callable[[], float]] = (time.perf_counter, time.process_time),
) -> StepTime:
    """Cost per step of `work(steps)`, by the clocks for wall time and CPU time.

    That is the difference between many and few steps, so that set-up does not count; the fastest of three each, as
    other processes only ever slow a step down. A slow step is timed once after one to warm up: it outweighs set-up.
    """

    def once(steps: int) -> NDArray[Any]:
        starts = [clock() for clock in clocks]
        work(steps)
        # processes must go on alike
        return np.array([agreed(clock() - start) for clock, start in zip(clocks, starts, strict=True)])

    work(few)
    first = once(few)
    if first[0] > SLOW_STEP * few:
        wall, cpu = first / few
    else:
        some = np.minimum.reduce([first, once(few), once(few)])
        all_ = np.minimum.reduce([once(many) for _ in range(3)])
        wall, cpu = np.where(all_ > some, (all_ - some) / (many - few), all_ / many)
    return StepTime(float(wall), float(cpu))


class Prices:
    """Cost of one step of each stage; each kind is timed when first asked for, and once.

    Args:
        timer: how steps are timed.
        real: number of training images, where those at hand only stand in for them.
    """

    def __init__(self, timer: Timer, real: int | None = None) -> None:
        self._timer, self.real = timer, real
        self._known: dict[tuple[object, ...], StepTime] = {}
        self._trainers: dict[tuple[object, ...], GanTrainer] = {}

    def _once(
        self, key: tuple[object, ...], what: str, work: Callable[[int], None], operations: Callable[[], float]
    ) -> StepTime:
        if key not in self._known:
            self._known[key] = self._timer(what, work, operations)
        return self._known[key]

    def teacher(self, experiment: Experiment, config: TeacherConfig) -> StepTime:
        """One update of one member of a teacher."""
        return self.classifier(experiment, config.network, config, f"teacher {config.model}", config.input_size)

    def classifier(
        self, experiment: Experiment, name: str, config: TeacherConfig, what: str, size: int | str | None = None
    ) -> StepTime:
        """One update of a network that is trained as teachers are, on images of side `size` (default: the data's)."""
        train, few = experiment.splits.train, experiment.splits.train.subset(torch.arange(2))
        net = experiment.model(name, 0, size)

        def work(updates: int) -> None:
            train_supervised(net, train, few, replace(config, updates=updates), experiment.engine, 0)

        return self._once(
            ("supervised", name, size, config.batch_size),
            what,
            work,
            lambda: training_step(name, train.shape, train.task.head_size, config.batch_size, size=size),
        )

    def autoencoder(self, experiment: Experiment) -> StepTime:
        """One update of the autoencoder in whose features the density ratio compares images."""
        train, engine = experiment.splits.train, experiment.engine
        encoder = engine.place(SparseAutoencoder(train.task, train.shape, 0))

        def work(updates: int) -> None:
            train_autoencoder(encoder, train, updates, engine, 0, Stage("autoencoder"))

        return self._once(
            ("autoencoder",), "ratio's autoencoder", work, lambda: autoencoder_step(train.task, train.shape)
        )

    def ratio_features(self, experiment: Experiment) -> StepTime:
        """One update of the network in whose features the density ratio compares images."""
        if experiment.recipe.ratio.features == "classifier":
            return self.classifier(experiment, CLASSIFIER, experiment.recipe.teacher, "ratio's classifier")
        return self.autoencoder(experiment)

    def virtual(self, experiment: Experiment) -> StepTime:
        """One update of the virtual teacher's generator."""
        recipe, train = experiment.recipe, experiment.splits.train

        def work(steps: int) -> None:
            gan = KnowledgeGan(train.task, recipe.virtual, seed=0)
            labels = train.task.hard_labels(train.labels.cpu())[torch.arange(recipe.virtual.batch_size) % len(train)]
            probs = torch.full((len(labels), gan.num_outputs), 1 / gan.num_outputs)
            for _ in range(steps):
                gan.step(probs, labels)

        return self._once(("virtual",), "virtual teacher", work, lambda: 0.0)

    def _gan(self, experiment: Experiment) -> GanTrainer:
        key, recipe = _networks(experiment), experiment.recipe
        if key not in self._trainers:
            teacher = untrained_teacher(experiment, recipe.teacher)
            self._trainers[key] = GanTrainer(experiment.splits.train, recipe.gan, experiment.engine, 0, None, teacher)
        return self._trainers[key]

    def generator_megabytes(self, experiment: Experiment) -> float:
        """Size of the generator's weights."""
        return megabytes(self._gan(experiment).generator)

    def generator(self, experiment: Experiment) -> StepTime:
        """One generator update, with the discriminator updates before it."""
        config, train, trainer = experiment.recipe.gan, experiment.splits.train, self._gan(experiment)

        def work(steps: int) -> None:
            for step in range(steps):
                for number in range(config.d_steps):
                    trainer.discriminator_step(step * config.d_steps + number)
                trainer.generator_step(step)

        return self._once(
            ("gan", *_networks(experiment)), "generator", work, lambda: gan_step(config, train.task, train.shape)
        )

    def label_embedding(self, experiment: Experiment) -> StepTime:
        """One update of a learned label embedding (ILI)."""
        train = experiment.splits.train

        def work(updates: int) -> None:
            few = train.subset(torch.arange(2))
            train_label_embedding(train, few, updates, experiment.engine, 0, Stage("ili"))

        return self._once(("ili",), "label embedding (ILI)", work, lambda: 0.0)

    def sampling(self, experiment: Experiment) -> StepTime:
        """Sampling and scoring of one block of generated images."""
        recipe, train = experiment.recipe, experiment.splits.train
        teacher = experiment.engine.place(untrained_teacher(experiment, recipe.teacher))
        given = recipe.gan.external
        generator = self._gan(experiment).generator if given is None else external_generator(experiment, given)

        def work(blocks: int) -> None:
            labels = train.labels[:1].cpu().repeat(blocks * BLOCK)
            predict_with_features(teacher, sample_images(generator, labels, 0, "plan"), experiment.engine)

        return self._once(
            ("sampling", *_networks(experiment)),
            f"sampling, {BLOCK} images",
            work,
            lambda: sampling_step(recipe.gan, train.task, train.shape, recipe.teacher.model, BLOCK, teacher.size),
        )

    def student(self, experiment: Experiment, arm: Arm, what: str = "") -> StepTime:
        """One update of a student of an arm on real images, with one thread, as students are trained."""
        config = arm.recipe(experiment.recipe).student
        with one_thread(experiment.engine.device):
            return self._distilled(experiment, arm, config.network, what or f"student {config.model}")

    def assistant(self, experiment: Experiment, arm: Arm, place: int) -> StepTime:
        """One update of an arm's assistant."""
        name = assistant_configs(experiment.recipe, arm)[place].model
        return self._distilled(experiment, arm, name, f"assistant {name}")

    def _distilled(self, experiment: Experiment, arm: Arm, name: str, what: str) -> StepTime:
        recipe, engine = arm.recipe(experiment.recipe), experiment.engine
        train = some(experiment.splits.train)  # a teacher's outputs for all images are stored once, not at every step
        config, taught = recipe.student, arm.loss is not None
        teacher = other_teacher(recipe, config.teacher)
        net = experiment.model(name, 0, config.input_size)

        def work(updates: int) -> None:
            network = engine.place(untrained_teacher(experiment, teacher))
            virtual = untrained_virtual(experiment, recipe.virtual) if arm.reads_virtual else None
            lesson = Lesson(config.objective, network, virtual, new_student(experiment, config)) if taught else None
            few, own = train.subset(torch.arange(2)), replace(config, updates=updates, assistants=())
            distill(net, train, few, own, engine, 0, lesson=lesson)

        return self._once(
            ("distill", name, config.input_size, arm.loss, teacher.model if taught else None, config.batch_size),
            what + ", taught" * taught,
            work,
            lambda: training_step(
                name,
                train.shape,
                train.task.head_size,
                config.batch_size,
                teacher.model if taught else None,
                size=config.input_size,
                teacher_size=input_size(teacher),
            ),
        )


def some(images: LabelledImages) -> LabelledImages:
    """The images, or `IMAGES` of them, evenly spread."""
    count = min(len(images), IMAGES)
    return images.subset(torch.arange(count) * len(images) // count)


def _networks(experiment: Experiment) -> tuple[object, ...]:
    """Names and sizes of the networks in whose time a generator is trained or sampled."""
    teacher, gan = experiment.recipe.teacher, experiment.recipe.gan
    return teacher.network, teacher.members, gan.width_g, gan.width_d


def megabytes(module: torch.nn.Module) -> float:
    """Size of a network's weights."""
    return sum(value.numel() * value.element_size() for value in module.state_dict().values()) / 1e6
