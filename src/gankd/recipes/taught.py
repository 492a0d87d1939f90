"""Data, teacher and virtual teacher of one run folder: what every method of the package begins with."""

import hashlib
import inspect
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import from_dict, to_dict
from gankd.data.images import LabelledImages, Splits
from gankd.engine import Engine
from gankd.errors import CheckpointError, DataError, ModelError
from gankd.generators.networks import start_side
from gankd.models import build_net
from gankd.models.contract import Ensemble, ImageModel, check_model, evaluate
from gankd.own_code import user_errors_in_one_line
from gankd.recipes.config import Recipe
from gankd.recipes.data import load_splits
from gankd.runs import Run, Stage, fingerprint
from gankd.seeds import derive_seed
from gankd.storage import fill, load_state, load_weights, read_card, restore, save_state
from gankd.training.supervised import train_supervised
from gankd.virtual import (
    Inspection,
    OutputReader,
    TeacherTraining,
    VirtualTeacher,
    Watcher,
    inspect_virtual,
    learns_alongside,
    load_virtual,
    make_output_reader,
    train_virtual,
)


class Taught:
    """A run folder with its images, its teacher and its virtual teacher; each is made when first asked for, and reused
    when it is there already.

    Args:
        recipe: settings.
        run: the folder.
        splits: images in memory in place of the recipe's data.
    """

    def __init__(self, recipe: Recipe, run: Run, splits: Splits | None = None) -> None:
        # As read from a file: a worker gets it so, and 1 and 1.0 would be different stages.
        self.recipe = from_dict(Recipe, to_dict(recipe))
        self.run, self.given_splits = run, splits

    # --- data -----------------------------------------------------------------------------------------------

    @cached_property
    def splits(self) -> Splits:
        """Train, validation and test images."""
        splits = self.given_splits or load_splits(self.recipe.data)
        _, height, width = splits.train.shape
        if height != width:
            raise DataError(
                f"images must be square, got {height}x{width}; crop them, for example with --size {min(height, width)}"
            )
        start_side(width)  # refuse a size that no generator can make before anything is trained
        return splits

    @cached_property
    def engine(self) -> Engine:
        """Device and precision of every stage."""
        return Engine.pick(self.splits.train.shape[1], self.recipe.device, self.recipe.precision)

    def _stage(self, name: str, config: Any, **inputs: str) -> Stage:
        settings = {
            **(config if isinstance(config, dict) else to_dict(config)),
            "seed": self.recipe.seed,
            "bf16": self.engine.bf16,
        }
        return self.run.stage(name, settings, {"data": self._data_fingerprint, **inputs})

    @cached_property
    def _data_fingerprint(self) -> str:
        return self.splits.fingerprint()

    def net(self, name: str, seed: int, size: int | None = None) -> nn.Module:
        """A network with freshly drawn weights, for images of `size` pixels; none: those of the data."""
        channels, own_size, _ = self.splits.train.shape
        return build_net(
            name,
            in_channels=channels,
            image_size=size or own_size,
            num_outputs=self.splits.task.head_size,
            seed=seed,
        )

    def describe(self, name: str, size: int | None = None) -> str:
        """Hash of a network's structure, and of the file it comes from where that is the user's own."""
        net = self.net(name, 0, size)
        shapes = [[key, list(value.shape)] for key, value in net.state_dict().items()]
        source = ""
        if ":" in name:
            path = inspect.getsourcefile(type(net)) or ""
            source = Path(path).read_text() if Path(path).is_file() else ""
        return fingerprint(repr(net), shapes, source)

    # --- teacher --------------------------------------------------------------------------------------------

    @cached_property
    def teacher_stage(self) -> Stage:
        """Identity and state of the teacher."""
        config = self.recipe.teacher
        inputs = {"net": self.describe(config.model, self._teacher_size)}
        if config.weights is not None:
            inputs["weights"] = fingerprint(sorted(hash_state(load_weights(Path(config.weights))).items()))
        return self._stage("teacher", config, **inputs)

    @cached_property
    def teacher(self) -> ImageModel:
        """The teacher in eval mode.

        Raises:
            ModelError: it does not fit the task, or does no better than chance on validation images.
        """
        stage, teacher = self.teacher_stage, self._new_teacher()
        if stage.done:
            return restore(teacher, stage.path("model.safetensors"))
        self._train_teacher(teacher, stage)
        return self._finish_teacher(teacher)

    @property
    def _teacher_size(self) -> int | None:
        """Side in pixels of the teacher's images, where the user or the file of its weights says so."""
        config = self.recipe.teacher
        return config.input_size or read_card(Path(config.weights or "")).get("size")

    def _new_teacher(self) -> ImageModel:
        """The teacher before training, or with the weights that the user gives."""
        config, seed = self.recipe.teacher, self.recipe.seed
        nets = [
            self.net(config.model, derive_seed(seed, "teacher", n), self._teacher_size) for n in range(config.members)
        ]
        if config.weights is not None:
            fill(nets[0], load_weights(Path(config.weights)), f"{config.weights} does not fit {config.model}")
            teacher = self._contract(nets[0])
        else:
            teacher = ImageModel.for_data(nets[0] if config.members == 1 else Ensemble(nets), self.splits.train)
        return self.engine.place(teacher).eval()

    def _train_teacher(self, teacher: ImageModel, stage: Stage, beside: Watcher | None = None) -> None:
        config, train, val = self.recipe.teacher, self.splits.train, self.splits.val
        self.run.console.say(f"teacher            {config.model}{f' x {config.members}' * (config.members > 1)}")
        check_model(teacher, train.to(self.engine.device), f"teacher {config.model}")
        if config.weights is not None:
            return
        stage.begin()
        for number, net in enumerate(teacher.members):
            part = stage if config.members == 1 else stage.part(f"member-{number}")
            member, seed = ImageModel.for_data(net, train), derive_seed(self.recipe.seed, "member", number)
            with user_errors_in_one_line(config.model, f"teacher {config.model}"):
                train_supervised(member, train, val, config, self.engine, seed, part, beside=beside)

    def _finish_teacher(self, teacher: ImageModel) -> ImageModel:
        stage, val = self.teacher_stage, self.splits.val
        metrics = evaluate(teacher, val, self.engine)
        config = self.recipe.teacher
        refuse_chance_level(metrics[val.task.metric], val, f"teacher {config.model}", given=config.weights is not None)
        save_state(stage.path("model.safetensors"), teacher.state_dict())
        stage.finish(val=metrics)
        return teacher.eval()

    def _contract(self, net: nn.Module) -> ImageModel:
        """The user's trained network: its own normalisation, and outputs in label units."""
        config, train = self.recipe.teacher, self.splits.train
        own, card = ImageModel.for_data(net, train), read_card(Path(config.weights or ""))  # of gankd export
        mean, std = (
            getattr(own, name) if given is None else torch.tensor(given)
            for name, given in (("mean", config.mean or card.get("mean")), ("std", config.std or card.get("std")))
        )
        return ImageModel(
            net,
            size=self._teacher_size or train.shape[1],
            mean=mean.flatten(),
            std=std.flatten(),
            offset=card.get("offset", 0.0),
            factor=card.get("factor", 1.0),
        )

    def untrained_teacher(self) -> ImageModel:
        """A network of the teacher's architecture and contract, to try things on."""
        config = self.recipe.teacher
        nets = [self.net(config.model, number, self._teacher_size) for number in range(config.members)]
        if config.weights is not None:
            return self._contract(nets[0])
        return ImageModel.for_data(nets[0] if config.members == 1 else Ensemble(nets), self.splits.train)

    # --- virtual teacher ------------------------------------------------------------------------------------

    @property
    def beside(self) -> bool:
        """Is the virtual teacher trained beside the teacher, or after it?

        Raises:
            ConfigError: beside is asked for where it cannot be.
        """
        teacher = self.recipe.teacher
        watched = teacher.members == 1 and teacher.weights is None
        return learns_alongside(self.recipe.virtual, self.splits.task, teacher.updates if watched else None)

    @cached_property
    def virtual_stage(self) -> Stage:
        """Identity and state of the virtual teacher."""
        settings = {**to_dict(self.recipe.virtual), "beside": self.beside}
        return self._stage("virtual", settings, teacher=self.teacher_stage.fingerprint)

    @cached_property
    def virtual_fingerprint(self) -> str:
        """Identity of the virtual teacher that students read: of this run, or a file from elsewhere."""
        given = self.recipe.student.virtual
        if given is None:
            return self.virtual_stage.fingerprint
        if not Path(given).is_file():
            raise CheckpointError(f"no virtual teacher {given} (student.virtual); gankd vkd train writes one")
        return fingerprint(hashlib.blake2b(Path(given).read_bytes()).hexdigest())

    @cached_property
    def virtual(self) -> VirtualTeacher:
        """The virtual teacher; it is trained if it is not there yet, and with it the teacher if that is not there.

        Raises:
            DataError: it was made for other labels. TrainingError: a weight is not finite.
        """
        task, given = self.splits.task, self.recipe.student.virtual
        if given is not None:
            virtual = VirtualTeacher.load(Path(given))
            virtual.check_task(task, given)
            return virtual.to(self.engine.device)
        stage = self.virtual_stage
        virtual = load_virtual(stage, task) if stage.done else self._train_virtual(stage)
        return virtual.to(self.engine.device)

    @property
    def virtual_temperature(self) -> float:
        """T at which the virtual teacher of this run is drawn: it need not be trained yet, unless it is a file's."""
        given = self.recipe.student.virtual is not None
        return self.virtual.temperature if given else self.recipe.virtual.temperature_for(self.splits.task)

    def _train_virtual(self, stage: Stage) -> VirtualTeacher:
        alongside = None
        if self.beside:
            network = self._new_teacher()
            alongside = TeacherTraining(
                network, self.recipe.teacher.updates, lambda part, watcher: self._teach_beside(network, part, watcher)
            )
        return train_virtual(
            self.recipe.virtual,
            self.splits.train,
            self.splits.val,
            stage,
            teacher=lambda: self.teacher,
            alongside=alongside,
            augment=self.recipe.teacher.augment,
            engine=self.engine,
            seed=self.recipe.seed,
            facts={"teacher": self.teacher_stage.fingerprint, "data": self._data_fingerprint},
        )

    def _teach_beside(self, teacher: ImageModel, part: Stage, watcher: Watcher) -> None:
        """Train the teacher with the generator watching. A teacher that is there already must come out the same."""
        again = self.teacher_stage.done
        if again:
            self.run.console.say(
                "virtual            the teacher is trained once more, for the generator to watch; "
                "--set virtual.when=after does without"
            )
        self._train_teacher(teacher, part, watcher)
        if again:
            before = load_state(self.teacher_stage.path("model.safetensors"))
            if not all(torch.equal(value.cpu(), before[name]) for name, value in teacher.state_dict().items()):
                self.run.console.say(
                    "virtual            trained again, the teacher came out a little different: another machine or "
                    "number of threads; the generator is polished on the one that is kept"
                )
        else:
            self.teacher_stage.begin()
            self.teacher_stage.seconds = part.seconds
            for line in part.history:
                self.teacher_stage.log(**line)
            self._finish_teacher(teacher)

    @cached_property
    def output_reader(self) -> OutputReader:
        """The teacher's outputs as the generator learns them."""
        return make_output_reader(
            self.teacher,
            self.splits.train,
            self.splits.val,
            self.recipe.virtual,
            self.virtual_stage.path("read_out.safetensors"),
            augment=self.recipe.teacher.augment,
            engine=self.engine,
            seed=self.recipe.seed,
        )

    def inspection(self) -> Inspection:
        """Measure the virtual teacher by the gates; see `inspect_virtual`."""
        virtual = self.virtual  # first: its training writes the result of the stage
        stored = self.virtual_stage.result or {}
        return inspect_virtual(
            virtual, lambda images: self.output_reader(images), self.splits.test, self.recipe.seed, stored
        )

    def untrained_virtual(self) -> VirtualTeacher:
        """A virtual teacher that knows nothing yet, to try things on."""
        return VirtualTeacher.untrained(self.splits.task, self.recipe.virtual).to(self.engine.device)


# --- helpers ------------------------------------------------------------------------------------------------


def hash_state(state: dict[str, Tensor]) -> dict[str, str]:
    """Hash of every tensor of a state."""
    return {
        name: hashlib.blake2b(value.contiguous().cpu().numpy().tobytes(), digest_size=16).hexdigest()
        for name, value in state.items()
    }


def refuse_chance_level(value: float, data: LabelledImages, what: str, *, given: bool = False) -> None:
    """Raise ModelError unless `value` of the task's metric is clearly better than a constant guess on `data`.

    `given`: its weights come from the user, so that training it longer is no remedy.
    """
    remedy = "train it longer (teacher.updates), choose another teacher.model, or check the labels"
    if given:
        remedy = "check that its outputs are in the order or unit of these labels, and teacher.mean and teacher.std"
    task, chance = data.task, data.task.chance(data.labels)
    better = value > 1.2 * chance if task.higher_is_better else value < 0.9 * chance
    if not better:
        raise ModelError(
            f"{what} is at chance level: {task.metric} {value:.4g} {task.metric_unit} on {len(data)} validation "
            f"images, a constant guess has {chance:.4g}; {remedy}"
        )
