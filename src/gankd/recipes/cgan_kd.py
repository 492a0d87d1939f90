"""cGAN-KD in one run folder: teacher, generator, density ratio, synthetic set, students.

Ding, Wang, Xu, Wang, Welch. Distilling and transferring knowledge via cGAN-generated samples for image classification
and regression. Expert Systems with Applications 213 (2023) 119060.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gankd
from gankd.config import from_dict, to_dict
from gankd.data.images import LabelledImages, Splits
from gankd.errors import CheckpointError
from gankd.generators.external import ExternalGenerator, Generator, ImagePool, open_external
from gankd.generators.networks import LatentGenerator
from gankd.models.contract import ImageModel, check_model, evaluate, predict, predict_with_features
from gankd.own_code import user_errors_in_one_line
from gankd.recipes.arms import ARMS, Arm, selection_of
from gankd.recipes.config import Recipe, StudentConfig
from gankd.recipes.taught import Taught
from gankd.runs import Run, Stage, fingerprint
from gankd.seeds import BLOCK, derive_seed, rng
from gankd.storage import FORMAT, fill, load_state, restore, save_state, write_json
from gankd.subsampling.autoencoder import SparseAutoencoder
from gankd.subsampling.ratio_net import DensityRatio
from gankd.synthetic import Sampler, SelectConfig, Selection, SyntheticSet, check_space, generate
from gankd.tasks import task_from_dict, task_to_dict
from gankd.training.autoencoder import train_autoencoder
from gankd.training.distill import distill
from gankd.training.gan import GanConfig, build_generator, train_gan
from gankd.training.gan_health import HealthCheck
from gankd.training.lesson import Fakes, Lesson, NewStudent
from gankd.training.ratio import train_ratio
from gankd.training.supervised import train_supervised
from gankd.training.wiring import Wiring, connect

CLASSIFIER = "resnet20"
"""Network that is trained for the features of the density ratio, where these are not the teacher's."""


class CganKd(Taught):
    """The method on one data set: each part is made when first asked for, and reused when it is there already.

        with Run(Path("runs/digits")) as run:
            method = CganKd(digits(), run)
            method.teacher, method.generator, method.synthetic      # uint8 images, labels, scores
            student = method.student("adjusted_kd", seed=0)

    Pass `splits` to work on images in memory in place of the recipe's data.
    """

    def __init__(self, recipe: Recipe, run: Run, splits: Splits | None = None) -> None:
        super().__init__(recipe, run, splits)
        self._selections: dict[SelectConfig, Selection] = {}

    # --- generator ------------------------------------------------------------------------------------------

    @cached_property
    def gan_stage(self) -> Stage:
        """Identity and state of the generator."""
        teacher = self.teacher_stage.fingerprint
        if self.external is not None:  # its content counts, not how another would be trained
            return self._stage("gan", {"external": True}, teacher=teacher, generator=self.external.fingerprint)
        return self._stage("gan", self.recipe.gan, teacher=teacher)

    @cached_property
    def external(self) -> ExternalGenerator | None:
        """The generator that is not trained here, if there is one.

        Raises:
            ConfigError, DataError, ModelError: it cannot be found or used.
        """
        source, train = self.recipe.gan.external, self.splits.train
        return None if source is None else open_external(source, train.task, train.shape, self.engine.device)

    @cached_property
    def generator(self) -> Generator:
        """The averaged generator in eval mode, or the external one, which is judged once.

        Raises:
            TrainingError: the generator collapsed or diverged. ModelError: an external one gives something else than
                images.
        """
        stage, train = self.gan_stage, self.splits.train
        if self.external is not None:
            if not stage.done:
                stage.begin()
                health = HealthCheck(self.engine.place(self.teacher), train, self.engine, self.recipe.seed)
                stage.log(step=0, **health(self.external), real_teacher=health.real_score)
                save_generator(stage.path("generator.safetensors"), self.external, train, self.recipe.gan)
                stage.finish(health=stage.history[-1])
            return self.external
        if stage.done:
            kept = load_generator(stage.path("generator.safetensors"))
            return self.engine.place(kept) if isinstance(kept, LatentGenerator) else kept
        generator = train_gan(
            train, self.splits.val, self.teacher, self.recipe.gan, self.engine, self.recipe.seed, stage
        )
        save_generator(stage.path("generator.safetensors"), generator, train, self.recipe.gan)
        stage.finish(health=stage.history[-1])
        return generator

    # --- density ratio --------------------------------------------------------------------------------------

    @cached_property
    def ratio_stage(self) -> Stage:
        """Identity and state of the density ratio."""
        return self._stage("ratio", self.recipe.ratio, gan=self.gan_stage.fingerprint)

    @cached_property
    def ratio_network(self) -> ImageModel | SparseAutoencoder:
        """The network in whose features real and generated images are compared."""
        recipe, train, val = self.recipe, self.splits.train, self.splits.val
        if recipe.ratio.features == "teacher":
            return self.teacher
        stage = self.ratio_stage.part(recipe.ratio.features)
        path = stage.path("model.safetensors")
        seed = derive_seed(recipe.seed, "ratio features")
        network: ImageModel | SparseAutoencoder
        if recipe.ratio.features == "classifier":
            network = self.engine.place(ImageModel.for_data(self.net(CLASSIFIER, seed), train))
        else:
            network = self.engine.place(SparseAutoencoder(train.task, train.shape, seed))
        if path.is_file():
            return restore(network, path)
        if isinstance(network, ImageModel):
            train_supervised(network, train, val, recipe.teacher, self.engine, seed, stage)
        else:
            train_autoencoder(network, train, recipe.teacher.updates, self.engine, seed, stage)
        save_state(path, network.state_dict())
        return network.eval()

    def features(self, images: Tensor) -> Tensor:
        """Features (N, F) in which the density ratio compares images."""
        network = self.ratio_network
        if isinstance(network, ImageModel):
            return predict_with_features(network, images, self.engine)[1]
        return network.encode_in_batches(images, self.engine)

    @cached_property
    def density_ratio(self) -> DensityRatio:
        """log p_real / p_fake in eval mode, and its facts."""
        stage, train, recipe = self.ratio_stage, self.splits.train, self.recipe
        if not stage.done:
            _ = self.generator  # whose time is not that of the ratio
            stage.begin()
        width = self.features(train.images[:2]).shape[1]
        if stage.done:
            ratio = DensityRatio(train.task, width, recipe.ratio.hidden, recipe.ratio.output)
            ratio.facts = stage.result or {}
            return restore(ratio, stage.path("ratio.safetensors")).to(self.engine.device)
        count = max(2 * len(train), 2048)
        labels = train.task.sample_labels(count, train.labels.cpu(), "empirical", rng(recipe.seed, "ratio labels"))
        if isinstance(self.generator, ImagePool):
            index = self.generator.take(labels, generator=rng(recipe.seed, "ratio images"))
            fakes, labels = self.generator.images[index], self.generator.labels[index]
        else:
            fakes = sample_images(self.generator, labels, recipe.seed, "ratio")
        ratio = train_ratio(
            self.features(train.images),
            train.labels,
            self.features(fakes),
            labels,
            train.task,
            recipe.ratio,
            recipe.seed,
            stage,
        )
        save_state(stage.path("ratio.safetensors"), ratio.state_dict())
        stage.finish(**ratio.facts)
        if ratio.facts.get("advice"):
            self.run.console.say(f"ratio              {ratio.facts['advice']}")
        return ratio

    # --- synthetic set --------------------------------------------------------------------------------------

    @cached_property
    def synth_stage(self) -> Stage:
        """Identity and state of the pool; selections from it are not part of it."""
        return self._stage("synth", self.recipe.synth, ratio=self.ratio_stage.fingerprint)

    @property
    def bytes_per_fake(self) -> int:
        """Disk space of a generated image with its label, teacher output and ratio, at most."""
        channels, height, width = self.splits.train.shape
        return channels * height * width + 4 * (self.splits.task.head_size + 3)

    @cached_property
    def synthetic(self) -> SyntheticSet:
        """The pool of generated images with their scores."""
        stage, recipe, train = self.synth_stage, self.recipe, self.splits.train
        if stage.done:
            return SyntheticSet(stage.path("pool"))
        if not stage.path("pool").exists():  # refused now, not after hours of training
            check_space(self.run.folder, recipe.synth.pool * self.bytes_per_fake)
        generator, ratio = self.generator, self.density_ratio
        stage.begin()
        labels = train.task.sample_labels(
            recipe.synth.pool, train.labels.cpu(), recipe.synth.labels, rng(recipe.seed, "pool labels")
        )

        sampler: Sampler = generator.sample
        if isinstance(generator, ImagePool):
            index = generator.take(labels, generator=rng(recipe.seed, "pool images"))
            if len(index) < len(labels):
                what = f"{generator.what} has images for {len(index):,} of {len(labels):,} labels, none used twice"
                self.run.console.say(f"synth              {what}")
            labels, sampler = generator.labels[index], generator.in_blocks(index, recipe.seed, "sample")

        def score(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            # With teacher features, one pass of the teacher serves ratio, filter and soft labels.
            if recipe.ratio.features == "teacher":
                outputs, features = predict_with_features(self.teacher, images, self.engine)
            else:
                outputs, features = predict(self.teacher, images, self.engine), self.features(images)
            return outputs, ratio.log_ratio(features, labels.to(features.device))

        pool = generate(
            stage.path("pool"),
            sampler,
            score,
            train.task,
            labels,
            recipe.seed,
            provenance={"gan": self.gan_stage.fingerprint, "ratio": self.ratio_stage.fingerprint},
            progress=stage.progress,
        )
        stage.finish(count=len(pool))
        return pool

    @cached_property
    def real_scores(self) -> tuple[Tensor, Tensor]:
        """The teacher's disagreement on validation images and their label groups: calibrates the filter."""
        val = self.splits.val
        outputs = predict(self.teacher, val.images, self.engine).cpu()
        labels = val.labels.cpu()
        return val.task.disagreement(outputs, labels), val.task.groups(labels)

    def selection(self, arm: Arm) -> Selection | None:
        """The generated images that an arm learns from; None for arms without."""
        config = selection_of(arm, self.recipe.select)
        if config is None:
            return None
        if config not in self._selections:
            chosen = self.synthetic.select(config, self.recipe.seed, *self.real_scores)
            self._selections[config] = chosen
            # What was kept of every label, thresholds and histograms: the log of this selection.
            log = self.synth_stage.path(f"selection-{fingerprint(to_dict(config))[:8]}.json")
            if not log.is_file():
                write_json(log, {"config": to_dict(config), **chosen.report})
        return self._selections[config]

    # --- students -------------------------------------------------------------------------------------------

    def student_config(self, arm: Arm) -> StudentConfig:
        """Settings of one arm: unmatched arms get as many passes over real images as the others see."""
        config = self.recipe.student
        if starts_from_another(config, arm) and config.finetune_lr is not None:
            config = replace(config, lr=config.finetune_lr)
        if arm.kd and arm.fakes is None:
            config = replace(config, kd_on="both")  # without generated images, real ones are all there is to learn on
        if arm.matched:
            return config
        if config.start_updates is not None:
            return replace(config, updates=config.start_updates)
        return replace(config, updates=max(1, round(config.updates * (1 - config.fake_share))))

    def check_students(self, arms: Sequence[Arm]) -> dict[str, Wiring]:
        """Refuse a student or a loss that does not fit now, not after hours of training teacher and generator.

        Returns:
            Which feature maps meet, for each of whom the student learns from, if maps are read.

        Raises:
            ConfigError: a loss is for the other task. ModelError: networks do not fit the task, or each other.
        """
        wirings: dict[str, Wiring] = {}
        if not arms:
            return wirings
        config, train = self.recipe.student, self.splits.train.to(self.engine.device)
        student = self.engine.place(ImageModel.for_data(self.net(config.model, 0), train))
        check_model(student, train, f"student {config.model}")
        if not any(arm.kd for arm in arms):
            return wirings
        given = config.virtual is not None and config.objective.needs_virtual
        virtual = self.virtual if given else self.untrained_virtual()
        lessons = {f"teacher {self.tutor.recipe.teacher.model}": self.tutor.untrained_teacher()}
        lessons |= {f"assistant {name}": ImageModel.for_data(self.net(name, 0), train) for name in config.assistants}
        for what, lesson in lessons.items():
            check_model(self.engine.place(lesson).eval(), train, what)
            content = Lesson(config.objective, lesson, virtual, self.new_student(config))
            with connect(student, content, train, config, self.engine, 0) as connection:
                if connection.wiring.pairs:
                    wirings[what] = connection.wiring
        return wirings

    def new_student(self, config: StudentConfig, made: list[tuple[str, ImageModel]] | None = None) -> NewStudent:
        """Factory for peer networks of the student; appends each with its architecture's name to `made`."""

        def new_student(name: str, seed: int) -> ImageModel:
            peer = ImageModel.for_data(self.net(name or config.model, seed), self.splits.train)
            if made is not None:
                made.append((name or config.model, peer))
            return peer

        return new_student

    def student_stage(self, name: str, seed: int) -> Stage:
        """Identity and state of one student."""
        arm = ARMS[name]
        config = self.student_config(arm)
        inputs = {"net": self.describe(config.model)}
        if arm.fakes is not None:
            inputs["synth"] = self.synth_stage.fingerprint
            inputs["select"] = fingerprint(to_dict(selection_of(arm, self.recipe.select)))
        if arm.kd and config.objective.needs_teacher:
            inputs["teacher"] = self._lesson_stage(arm).fingerprint
        if arm.kd and config.objective.needs_virtual:
            inputs["virtual"] = self.virtual_fingerprint
        if arm.kd:
            inputs |= self._own_code(config)
        if starts_from_another(config, arm):
            inputs["init"] = self.student_stage("real", seed).fingerprint
        settings = {**self._student_settings(config, arm), "seed": seed, "bf16": self.engine.bf16}
        inputs["data"] = self._data_fingerprint
        return self.run.stage(f"student-{name}-{seed}", settings, inputs)

    def _student_settings(self, config: StudentConfig, arm: Arm) -> dict[str, Any]:
        """What a student's weights depend on: without a teacher, they do not depend on the loss of the other arms."""
        settings = to_dict(config)
        del settings["virtual"]  # whose content is an input
        for name in ("init", "finetune_lr", "start_updates"):  # what they lead to is in lr, updates and inputs
            del settings[name]
        if arm.fakes is None:
            del settings["fake_share"]  # which is no more than a number of updates then
        settings["teacher"] = None  # whose stage is an input
        if arm.kd:
            return settings | {"loss": str(config.objective.for_task(self.splits.task))}
        for name in ("loss", "assistants", "kd_on", "store_features", "student_taps", "teacher_taps"):
            del settings[name]
        return settings

    def student(self, name: str, seed: int) -> ImageModel:
        """The student of one arm and seed, in eval mode.

        Raises:
            ModelError: the network does not fit the task. TrainingError: the loss is not finite.
        """
        arm, stage, train = ARMS[name], self.student_stage(name, seed), self.splits.train
        config = self.student_config(arm)
        net = self.net(config.model, derive_seed(seed, "student"))
        student = self.engine.place(ImageModel.for_data(net, train))
        if stage.done:
            return restore(student, stage.path("model.safetensors"))
        if starts_from_another(config, arm):
            student.load_state_dict(self.student("real", seed).state_dict())
        self._distill(student, arm, config, seed, stage)
        return student

    def _distill(self, student: ImageModel, arm: Arm, config: StudentConfig, seed: int, stage: Stage) -> None:
        """Train one student or assistant from the lesson of its arm, and finish its stage."""
        splits, selection = self.splits, self.selection(arm)
        teaches = arm.kd and config.objective.needs_teacher
        fakes = None if selection is None else self._fakes(selection, config)
        teacher = self._lesson(arm, config.assistants) if teaches else None
        virtual = self.virtual if arm.kd and config.objective.needs_virtual else None
        peers: list[tuple[str, ImageModel]] = []
        lesson = Lesson()
        if arm.kd:
            folder = self.tutor.teacher_stage.folder if teaches else None
            lesson = Lesson(config.objective, teacher, virtual, self.new_student(config, peers), folder)
        stage.begin()  # storing the teacher's outputs is the student's time, making the teacher is not
        with user_errors_in_one_line(config.model, f"student {config.model}"):
            distill(
                student,
                splits.train,
                splits.val,
                config,
                self.engine,
                seed,
                lesson=lesson,
                fakes=fakes,
                stage=stage,
            )
        save_state(stage.path("model.safetensors"), student.state_dict())
        for number, (_, peer) in enumerate(peers, 1):
            save_state(stage.path(f"peer-{number}.safetensors"), peer.state_dict())
        facts = {"peers": [name for name, _ in peers]} if peers else {}
        stage.finish(val=evaluate(student, splits.val, self.engine), updates=config.updates, **facts)

    def peers(self, name: str, seed: int) -> list[tuple[str, ImageModel]]:
        """Networks that were trained along with a finished student, with their names, in eval mode."""
        stage = self.student_stage(name, seed)
        found = []
        for number, net in enumerate((stage.result or {}).get("peers", ()), 1):
            peer = self.engine.place(ImageModel.for_data(self.net(net, 0), self.splits.train))
            found.append((net, restore(peer, stage.path(f"peer-{number}.safetensors"))))
        return found

    def _fakes(self, selection: Selection, config: StudentConfig) -> Fakes:
        # What is stored with the pool is the filter's; an assistant or another teacher has its own view of the images.
        own = config.assistants or self.tutor.teacher_stage.fingerprint != self.teacher_stage.fingerprint
        outputs = None if own else selection.teacher_outputs
        return Fakes(selection.images(), selection.labels, outputs, folder=self.synth_stage.path("pool"))

    def _own_code(self, config: StudentConfig) -> dict[str, str]:
        """Hash of every file that holds a loss of the user's own."""
        files = {inspect.getsourcefile(term.loss.make) or "" for term in config.objective.terms}
        own = sorted(name for name in files if not name.startswith(str(Path(gankd.__file__).parent)))
        return {f"loss {Path(name).stem}": fingerprint(Path(name).read_text()) for name in own if Path(name).is_file()}

    # --- whom students learn from ---------------------------------------------------------------------------

    @cached_property
    def tutor(self) -> Taught:
        """Whose teacher the losses read: this run's own, or `student.teacher`, trained as that is on the same images.

        Filter, labels of generated images and a virtual teacher remain this run's own teacher's.
        """
        name = self.recipe.student.teacher
        if name is None:
            return self
        config = replace(self.recipe.teacher, model=name, weights=None, mean=None, std=None, input_size=None)
        return Taught(replace(self.recipe, teacher=config), self.run, self.splits)

    def prepare_lesson(self, arm: Arm) -> None:
        """Train whom the students of this arm learn from, if anyone."""
        objective = self.recipe.student.objective
        if arm.kd and objective.needs_virtual:
            _ = self.virtual
        if arm.kd and objective.needs_teacher:
            _ = self._lesson(arm, self.recipe.student.assistants)

    def assistant_stages(self, arm: Arm) -> list[Stage]:
        """Identity and state of each assistant of an arm, large to small."""
        student = self.recipe.student
        if not (arm.kd and student.objective.needs_teacher):
            return []
        chain = student.assistants
        return [self._assistant_stage(arm, chain[: place + 1]) for place in range(len(chain))]

    def _lesson_stage(self, arm: Arm) -> Stage:
        """Identity of whom the students of an arm learn from: the last assistant, or the teacher."""
        assistants = self.recipe.student.assistants
        return self._assistant_stage(arm, assistants) if assistants else self.tutor.teacher_stage

    def _assistant_config(self, arm: Arm, chain: tuple[str, ...]) -> StudentConfig:
        """Settings of the last assistant of a chain, which always starts from scratch."""
        config = self.student_config(arm).from_scratch
        return replace(config, lr=self.recipe.student.lr, model=chain[-1], assistants=chain[:-1])

    def _assistant_stage(self, arm: Arm, chain: tuple[str, ...]) -> Stage:
        config = self._assistant_config(arm, chain)
        before = self._assistant_stage(arm, chain[:-1]) if chain[:-1] else self.tutor.teacher_stage
        inputs = {"net": self.describe(chain[-1]), "teacher": before.fingerprint, **self._own_code(config)}
        if config.objective.needs_virtual:
            inputs["virtual"] = self.virtual_fingerprint
        if arm.fakes is not None:
            inputs["synth"] = self.synth_stage.fingerprint
            inputs["select"] = fingerprint(to_dict(selection_of(arm, self.recipe.select)))
        settings = to_dict(config) | {"teacher": None}
        del settings["virtual"]
        return self._stage(f"assistant-{len(chain)}-{arm.name}", settings, **inputs)

    def _lesson(self, arm: Arm, chain: tuple[str, ...]) -> ImageModel:
        """The last assistant of a chain, each trained by the arm's loss from the one before; the teacher if none."""
        if not chain:
            return self.tutor.teacher
        stage, seed = self._assistant_stage(arm, chain), derive_seed(self.recipe.seed, "assistant", *chain)
        assistant = self.engine.place(ImageModel.for_data(self.net(chain[-1], seed), self.splits.train))
        if stage.done:
            return restore(assistant, stage.path("model.safetensors"))
        self._distill(assistant, arm, self._assistant_config(arm, chain), seed, stage)
        return assistant


# --- helpers ------------------------------------------------------------------------------------------------


def starts_from_another(config: StudentConfig, arm: Arm) -> bool:
    """Is this student fine-tuned from the one of arm `real`?"""
    return config.init == "finetune" and arm.name != "real"


def sample_images(generator: Generator, labels: Tensor, seed: int, purpose: str) -> Tensor:
    """uint8 images for labels, in blocks with random numbers of their own."""
    return torch.cat(
        [
            generator.sample(chunk, generator=rng(seed, purpose, block)).cpu()
            for block, chunk in enumerate(labels.split(BLOCK))
        ]
    )


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


def load_generator(path: Path) -> LatentGenerator | ExternalGenerator:
    """Read a generator from its file alone, in eval mode; an external one has to be where it was.

    Raises:
        CheckpointError: missing, damaged, or not a generator.
    """
    stored = load_state(path)
    if not isinstance(stored, dict) or "task" not in stored or "state" not in stored:
        raise CheckpointError(f"{path} holds no generator; it is written by the gan stage as generator.safetensors")
    config = from_dict(GanConfig, stored["config"], str(path))
    task, shape = task_from_dict(stored["task"]), tuple(stored["shape"])
    if config.external is not None:
        external = open_external(config.external, task, shape, torch.device("cpu"))
        if external.fingerprint != stored.get("fingerprint"):
            raise CheckpointError(f"{external.what} is no longer what {path} was made with; run the gan stage again")
        return external
    generator = build_generator(task, shape, config, seed=0)
    fill(generator, stored["state"], f"{path} is no whole generator")
    return generator.eval()
