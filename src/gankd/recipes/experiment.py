"""Starting point of every stage of a run: settings, images, device and run folder."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from gankd.config import from_dict, require, to_dict
from gankd.console import shows_reading
from gankd.data.images import Splits
from gankd.engine import Engine
from gankd.generators.networks import start_sides
from gankd.identity import Identity, identity_of_new
from gankd.models import ZOO, build_net, is_own
from gankd.models.contract import ImageModel
from gankd.models.initial import Initial, draw_weights
from gankd.models.network_files import file_state
from gankd.own_code import split_arguments
from gankd.processes import count
from gankd.recipes.config import Recipe
from gankd.recipes.data import add_unlabelled, given_splits, load_splits
from gankd.recipes.from_hub import pulled
from gankd.recipes.live import Live, Objects, copied, with_objects
from gankd.runs import Run, Stage, fingerprint
from gankd.shards import Shards
from gankd.sizes import sides, size_of


@dataclass(frozen=True)
class Experiment:
    """One data set under one recipe in one run folder. It is given, not computed: nothing here trains a network."""

    recipe: Recipe
    run: Run
    splits: Splits
    engine: Engine
    in_memory: tuple[str, ...] = ()
    """Names of what was passed in Python, such as splits: a later process cannot read it again."""
    memory: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Networks, pools and generators that this process has in memory, by fingerprint or by source."""
    live: Objects = field(default_factory=dict, repr=False, compare=False)
    """Networks and a generator that were passed in Python, by the names that the recipe has for them."""
    code: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Digests of the user's own files that something of this experiment depends on, by name."""

    @classmethod
    def open(cls, recipe: Recipe, run: Run, splits: Any = None, **live: Unpack[Live]) -> "Experiment":
        """Load the images and choose the device.

        Args:
            recipe: settings.
            run: the folder; it need not be locked or exist yet.
            splits: images in memory instead of the recipe's data, see `Given`.
            live: networks and a generator instead of the recipe's; see `Live`.

        Raises:
            DataError: the images cannot be used, or have a size that no generator can make.
            ConfigError: settings do not fit the data set or this machine. HubError: a teacher or generator on the hub
                cannot be had.
        """
        recipe, objects = with_objects(recipe, **live)
        recipe.teacher.require_weights()
        recipe = pulled(recipe)
        recipe = from_dict(Recipe, to_dict(recipe))  # as workers read it: 1 and 1.0 would be different stages
        with shows_reading(run.console):
            images = load_splits(recipe.data) if splits is None else given_splits(splits, recipe.data)
            if recipe.data.unlabelled is not None:
                images = add_unlabelled(images, recipe.data, objects.get(recipe.data.unlabelled))
        _, height, width = images.train.shape
        start_sides(height, width)
        if recipe.shards == 1:
            recipe = replace(recipe, shards=count())
        shards = Shards(recipe.shards, fast=recipe.reduce == "fast")
        engine = Engine.pick(min(height, width), recipe.device, recipe.precision, shards)
        given = {"splits": splits, **live}
        names = tuple(name for name, value in given.items() if value is not None and not isinstance(value, str | Path))
        return cls(recipe, run, images, engine, names, live=objects)

    def with_recipe(self, recipe: Recipe) -> "Experiment":
        """Another recipe for the same images in the same folder; results in memory are shared."""
        return replace(self, recipe=from_dict(Recipe, to_dict(recipe)))

    def pipelines(self) -> "list[tuple[Experiment, range]]":
        """The repetitions of the whole pipeline: experiments with seeds of their own, and seeds of their students."""
        recipe, found = self.recipe, []
        for number in range(recipe.pipelines):
            own = self if number == 0 else self.with_recipe(replace(recipe, seed=recipe.seed + number))
            found.append((own, range(number * recipe.seeds, (number + 1) * recipe.seeds)))
        return found

    def stage(self, name: str, settings: Any, **inputs: str) -> Stage:
        """Stage of this run whose result depends on the recipe's seed and the images, besides what is given.

        Args:
            name: first part of the folder's name.
            settings: a settings dataclass, or plain data.
            inputs: fingerprints of what the stage reads.
        """
        plain = settings if isinstance(settings, dict) else to_dict(settings)
        own = {**plain, "seed": self.recipe.seed, **self.engine.identity}
        return self.run.stage(name, own, {"data": self.data_fingerprint, **inputs})

    @cached_property
    def data_fingerprint(self) -> str:
        """Hash of all images and labels."""
        return self.splits.fingerprint()

    def net(
        self,
        name: str,
        seed: int,
        size: int | str | None = None,
        num_outputs: int | None = None,
        initial: Initial = "gankd",
    ) -> nn.Module:
        """Build a network with new weights.

        Args:
            name: a zoo name or module:name.
            seed: of the weights.
            size: side of its images in pixels; default: that of the data.
            num_outputs: width of its last layer; default: that of the task.
            initial: distribution of its weights; others than gankd are for networks of the zoo.
        """
        channels, height, width = self.splits.train.shape
        base, arguments = split_arguments(name)
        found = self.live.get(base)
        require(
            initial == "gankd" or (found is None and base.partition("+")[0] in ZOO),
            f"initial={initial} is for networks of the zoo (gankd list models), got {name}; set it to gankd",
        )
        if isinstance(found, nn.Module):
            require(not arguments, f"{base} is made already, so args cannot be given to it; give what makes it")
            return copied(found, name)
        net = build_net(
            name,
            in_channels=channels,
            image_size=size or size_of(height, width),
            num_outputs=num_outputs or self.splits.task.head_size,
            seed=seed,
            factory=found,
        )
        draw_weights(net, initial, name, min(sides(size or size_of(height, width))), seed)
        return net

    def model(self, name: str, seed: int, size: int | str | None = None, initial: Initial = "gankd") -> ImageModel:
        """Network on the device that takes images of this data set, with new weights.

        Args:
            name, seed, size, initial: as for `net`; images of another size are resized.
        """
        net = self.net(name, seed, size, initial=initial)
        return self.engine.place(ImageModel.for_data(net, self.splits.train, size))

    def describe(self, name: str, size: int | str | None = None) -> str:
        """Hash of a network's structure; of the user's own, of its code and of its state when it is new.

        Stages of gankd 0.1 are not reused where it computed the head in another way than now: last layers of networks
        that are not the zoo's had their outputs replaced by a float32 product, and heads of `+mlp` ran under autocast.
        """
        base, _ = split_arguments(name)
        found = self.live.get(base)
        if isinstance(found, nn.Module):
            return self.identity(name, lambda: Identity(found))
        if found is not None:
            return self.identity(f"{name} at {size}", lambda: identity_of_new(lambda: self.net(name, 0, size)))
        if is_own(name):
            module = base.rpartition(":")[0]
            return self.identity(f"{name} at {size}", lambda: identity_of_new(lambda: self.net(name, 0, size), module))
        key = f"structure of {name} at {size}, file {file_state(name)}"
        if key not in self.memory:
            self.memory[key] = self._described(name, size)
        return str(self.memory[key])

    def _described(self, name: str, size: int | str | None) -> str:
        net, source, head = self.net(name, 0, size), "", []
        shapes = [[key, list(value.shape)] for key, value in net.state_dict().items()]
        if ":" in name or ("+" in name and self.engine.bf16):
            head = ["as it is"]
        if ":" in name:
            path = inspect.getsourcefile(type(net)) or ""
            source = Path(path).read_text() if Path(path).is_file() else ""
        return fingerprint(repr(net), shapes, source, *head)

    def identity(self, what: str, find: Callable[[], Identity]) -> str:
        """Fingerprint of something of the user's; it is found again only where a file of its code has changed.

        Args:
            what: its name, unique in this experiment.
            find: finds its identity.
        """
        key = f"identity of {what}"
        state, found = self.memory.get(key, (None, None))
        if found is None or state != found.files.state:
            found = find()
            self.memory[key] = found.files.state, found
            self.code.update(found.files.digests)
        return str(found.fingerprint)

    def say(self, subject: str, text: str) -> None:
        """Print one line for the user: a stage or a subject, and what happened."""
        self.run.console.say(f"{subject:<18} {text}")
