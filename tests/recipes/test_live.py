"""Networks, generators and images that are passed in Python: what is trained, what is kept, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gankd
from gankd.commands.stages import stored_run
from gankd.config import override
from gankd.console import Console
from gankd.data.digits import load_digits
from gankd.errors import CheckpointError, ConfigError, GankdError, ModelError
from gankd.models import new_model
from gankd.models.contract import ImageModel, evaluate
from gankd.models.weights import load_weights
from gankd.recipes import Recipe, digits
from gankd.recipes.experiment import Experiment
from gankd.recipes.live import with_objects
from gankd.recipes.students import new_student
from gankd.recipes.teacher import new_teacher, teacher_stage
from gankd.runs import Run

IMAGES = load_digits()


class Tiny(nn.Module):
    """A network with the argument names of other libraries and more outputs than its logits."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(16 * width, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        return {"logits": self.head(features), "features": features}


class Nearest(nn.Module):
    """A teacher that is right without training: the class of the nearest of some training images."""

    def __init__(self, images: Tensor, labels: Tensor, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("images", (images.flatten(1).float() / 255 - mean) / std)
        self.register_buffer("labels", labels)
        self.head = nn.Linear(10, 10)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        near = -torch.cdist(x.flatten(1), self.get_buffer("images"))  # (N, M)
        return self.head(torch.stack([near[:, self.get_buffer("labels") == k].amax(1) for k in range(10)], 1))


def nearest(mean: float = 0.0, std: float = 1.0) -> Nearest:
    return Nearest(IMAGES.train.images[:400], IMAGES.train.labels[:400], mean, std)


def real_ones(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A generator that draws validation images of the labels."""
    picks = [(IMAGES.val.labels == label).nonzero()[:, 0] for label in labels]
    index = torch.stack([pick[int(torch.randint(len(pick), (), generator=generator))] for pick in picks])
    return IMAGES.val.images[index]


@pytest.fixture
def recipe(tiny: tuple[str, ...]) -> Recipe:
    return override(digits(), [*tiny, "device=cpu", "precision=fp32"])


def opened(recipe: Recipe, folder: Path, **given: Any) -> Experiment:
    return Experiment.open(recipe, Run(folder), **given)


def test_everything_in_memory_from_images_to_an_exported_student(recipe: Recipe, tmp_path: Path) -> None:
    teacher, lines = nearest(), Console("quiet")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    arrays = (IMAGES.train.images[:300, 0].numpy(), IMAGES.train.labels[:300].tolist())
    given: dict[str, Any] = {"splits": arrays, "teacher": teacher, "student": Tiny, "generator": real_ones}
    recipe, arms = replace(recipe, seeds=2), ["kd_matched", "adjusted_kd"]
    result = gankd.run(
        recipe, str(tmp_path / "run"), arms=["kd_matched", "adjusted_kd"], workers=2, console=lines, **given
    )
    assert [arm.seeds for arm in result.arms] == [(0, 1), (0, 1)]
    assert "nan" not in result.table
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())

    # the networks, ready to call on stored images, floats in [0, 1], or normalised images
    images = IMAGES.test.images[:40]
    logits = result.student(images)
    torch.testing.assert_close(logits, result.student(images / 255))
    torch.testing.assert_close(logits, result.student.net(result.student.normalise(images))["logits"])
    assert (result.teacher(images).argmax(1) == IMAGES.test.labels[:40]).float().mean() > 0.8
    samples = result.generator.sample(torch.tensor([3, 5]), generator=torch.Generator().manual_seed(0))
    assert samples.shape == (2, 1, 8, 8)

    # again: nothing is trained, and the file holds the same network
    made = sorted(path.name for path in (tmp_path / "run").iterdir())
    again = gankd.run(recipe, tmp_path / "run", arms=arms, **given)
    assert [arm.values for arm in again.arms] == [arm.values for arm in result.arms]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == made
    file = str(tmp_path / "small.safetensors")
    assert gankd.export(recipe, tmp_path / "run", file, **given).model == "memory:Tiny"
    with pytest.raises(CheckpointError, match=r"from a network in memory; give one like it: load_model\(path, network"):
        gankd.load_model(file)
    stored, _ = gankd.load_model(file, network=Tiny(10))
    torch.testing.assert_close(stored(images), logits)
    with pytest.raises(ConfigError, match=r"was given splits, teacher, student, generator in memory; resume in Python"):
        stored_run(tmp_path / "run")
    status = {row.stage: row.status for row in gankd.plan(recipe, str(tmp_path / "run"), arms=arms, **given)}
    assert set(status.values()) == {"reuse"}


def test_a_trained_teacher_is_checked_like_given_weights(recipe: Recipe, tmp_path: Path) -> None:
    def made(teacher: nn.Module, *changes: str) -> dict[str, Any]:
        return gankd.teach(override(recipe, changes), tmp_path / "run", splits=IMAGES, teacher=teacher)

    other = nearest(0.5, 0.1)
    assert made(other, "teacher.mean=[0.5]", "teacher.std=[0.1]")["top1"] > 80
    turned = nearest()
    turned.head.weight.data = turned.head.weight.data[torch.arange(10).roll(1)]
    with pytest.raises(GankdError, match="class_names|order"):
        made(turned)
    blank = Tiny(10)
    nn.init.zeros_(blank.head.weight)
    with pytest.raises(ModelError, match="chance level"):
        made(blank)


def test_an_image_model_brings_its_own_input_and_units(recipe: Recipe, tmp_path: Path) -> None:
    mean, std = torch.tensor([0.4]), torch.tensor([0.2])
    teacher = ImageModel(nearest(0.4, 0.2), size=8, mean=mean, std=std)
    experiment = opened(recipe, tmp_path / "run", splits=IMAGES, teacher=teacher)
    read = new_teacher(experiment, experiment.recipe.teacher)
    torch.testing.assert_close(read(IMAGES.test.images[:9]), teacher(IMAGES.test.images[:9]))
    scaled = ImageModel(nearest(0.4, 0.2), size=8, mean=mean, std=std, offset=1.0, factor=3.0)
    other = opened(recipe, tmp_path / "run", splits=IMAGES, teacher=scaled)
    read = new_teacher(other, other.recipe.teacher)
    torch.testing.assert_close(read(IMAGES.test.images[:9]), scaled(IMAGES.test.images[:9]))
    stages = [teacher_stage(each, each.recipe.teacher).fingerprint for each in (experiment, other)]
    assert stages[0] != stages[1]


def test_the_state_of_a_teacher_in_memory_names_its_stage(recipe: Recipe, tmp_path: Path) -> None:
    def named(teacher: Any) -> str:
        experiment = opened(recipe, tmp_path / "run", splits=IMAGES, teacher=teacher)
        return teacher_stage(experiment, experiment.recipe.teacher).fingerprint

    first, second = nearest(), nearest()
    assert named(first) == named(second)
    second.head.bias.data += 1
    assert named(first) != named(second)
    assert named(Tiny) == named(Tiny)
    assert named(Tiny) != named(partial(Tiny, width=3))


def test_a_function_makes_a_teacher_that_is_trained(recipe: Recipe, tmp_path: Path) -> None:
    recipe = override(recipe, ["teacher.updates=200"])
    gankd.teach(recipe, tmp_path / "run", splits=IMAGES, teacher=lambda: Tiny(10, 6), student="cnn4")
    experiment = opened(recipe, tmp_path / "run", splits=IMAGES, teacher=lambda: Tiny(10, 6))
    stage = teacher_stage(experiment, experiment.recipe.teacher)
    assert stage.done
    assert len(stage.history) > 1  # of its training


def test_one_network_is_a_student_of_one_seed(recipe: Recipe, tmp_path: Path) -> None:
    network = Tiny(10)
    with pytest.raises(ConfigError, match=r"student is one network, and seeds=2 asks .* give a class or fun"):
        opened(recipe, tmp_path / "run", splits=IMAGES, student=network)
    recipe = replace(recipe, seeds=1)
    experiment = opened(recipe, tmp_path / "run", splits=IMAGES, student=network)
    name = experiment.recipe.student.model
    copies = [experiment.net(name, seed) for seed in (0, 1)]
    assert all(copy is not network for copy in copies)
    assert all(torch.equal(copy.get_parameter("head.bias"), network.head.bias) for copy in copies)
    with pytest.raises(ModelError, match="trains further networks like the student, which is one network in memory"):
        new_student(experiment, experiment.recipe.student)("", 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"student": 3}, "student is a int, expected a network, or a class or function"),
        ({"student": new_model("cnn4", IMAGES.train, 0)}, r"give its own network: student.net"),
        ({"pupil": Tiny}, "no argument 'pupil'; known: teacher, student, generator"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str, recipe: Recipe) -> None:
    with pytest.raises(GankdError, match=message) as error:
        with_objects(recipe, **given)
    assert "\n" not in str(error.value)


def test_a_function_that_gives_the_same_network_again_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    network = Tiny(10)
    experiment = opened(recipe, tmp_path / "run", splits=IMAGES, student=lambda: network)
    with pytest.raises(ModelError, match="student returns the same network at each call; make a new one in it"):
        experiment.describe(experiment.recipe.student.model)


def test_a_name_from_memory_is_asked_for_again(recipe: Recipe, tmp_path: Path) -> None:
    named = override(recipe, ["student.model=memory:Tiny"])
    with pytest.raises(ModelError, match=r"model memory:Tiny was given in memory; give it again in Python: teacher="):
        opened(named, tmp_path / "run", splits=IMAGES).net("memory:Tiny", 0)


def test_a_trained_generator_is_one_for_the_next_run(recipe: Recipe, tmp_path: Path) -> None:
    class Latent(nn.Module):
        z_dim = 3

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(13, 64)

        def forward(self, z: Tensor, labels: Tensor) -> Tensor:
            x = torch.cat([z, nn.functional.one_hot(labels, 10).to(z.dtype)], 1)
            images: Tensor = self.layer(x).tanh().view(-1, 1, 8, 8)
            return images

    class Source:
        def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
            return real_ones(labels, generator)

    sources: list[Callable[..., Any] | object] = [Latent(), Latent, Source(), Source().sample, real_ones]
    prints = []
    for number, source in enumerate(sources):
        found = gankd.gan(recipe, tmp_path / str(number), splits=IMAGES, teacher=nearest(), generator=source)
        prints.append(Path(found["folder"]).name)
    assert len(set(prints)) == 5


def test_frozen_parts_stay_as_they_are(recipe: Recipe, tmp_path: Path) -> None:
    def half_frozen() -> nn.Module:
        net = Tiny(10)
        net.body.requires_grad_(False)
        return net

    recipe = replace(recipe, seeds=1)
    result = gankd.run(recipe, tmp_path / "run", arms=["real"], splits=IMAGES, student=half_frozen)
    start = opened(recipe, tmp_path / "run", splits=IMAGES, student=half_frozen)
    assert evaluate(result.student, IMAGES.val, start.engine)["top1"] > 0
    assert not any(parameter.requires_grad for parameter in result.student.net.get_submodule("body").parameters())


class Counting(Tiny):
    """A network that keeps more than tensors."""

    def __init__(self, num_classes: int, keep: Any = None) -> None:
        super().__init__(num_classes)
        self.keep = {"calls": 7, "names": ["a", "b"]} if keep is None else keep

    def get_extra_state(self) -> Any:
        return self.keep

    def set_extra_state(self, state: Any) -> None:
        self.keep = state


def test_an_extra_state_is_stored_as_plain_data_or_refused(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, seeds=1)
    given: dict[str, Any] = {"splits": IMAGES, "student": Counting}
    result = gankd.run(recipe, tmp_path / "run", arms=["real"], **given)
    assert result.student.net.get_extra_state()["names"] == ["a", "b"]
    found = gankd.export(recipe, tmp_path / "run", tmp_path / "s.safetensors", **given)
    stored, _ = gankd.load_model(found.path, network=Counting(10, {}))
    assert stored.net.get_extra_state() == {"calls": 7, "names": ["a", "b"]}
    torch.save(result.student.net.state_dict(), tmp_path / "w.pt")
    for file in ("w.pt", "s.safetensors"):
        assert load_weights(tmp_path / file)["_extra_state"] == stored.net.get_extra_state()
    given["student"] = partial(Counting, keep=object())
    with pytest.raises(CheckpointError, match="cannot be written .*: a module's get_extra_state must return plain"):
        gankd.run(recipe, tmp_path / "run", arms=["real"], **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.requires_grad_(False), "student has nothing to train: all its weights are frozen"),
        (lambda net: nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10)), "nothing to train: it has no weights"),
    ],
)
def test_a_student_without_anything_to_train_is_refused(
    change: Callable[[nn.Module], nn.Module], message: str, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        gankd.run(recipe, tmp_path / "run", arms=["real"], splits=IMAGES, student=lambda: change(Tiny(10)))


def test_arguments_belong_to_the_network_that_they_are_set_for(recipe: Recipe, tmp_path: Path) -> None:
    wide = override(recipe, ["student.args={width=6}", "student.args.num_classes=10"])
    experiment = opened(wide, tmp_path / "run", splits=IMAGES, student=Tiny, teacher="cnn4")
    config = experiment.recipe.student
    assert config.network == "memory:Tiny(width=6, num_classes=10)"
    assert experiment.net(config.network, 0).get_parameter("head.weight").shape == (10, 96)
    narrow = opened(recipe, tmp_path / "run", splits=IMAGES, student=Tiny, teacher="cnn4")
    names = {each.describe(each.recipe.student.network) for each in (experiment, narrow)}
    assert len(names) == 2
    assert "args" not in recipe.student.identity
    assert "args" not in recipe.teacher.identity
    assert config.identity["args"] == {"width": 6, "num_classes": 10}
    fixed = opened(replace(wide, seeds=1), tmp_path / "run", splits=IMAGES, student=Tiny(10))
    with pytest.raises(ConfigError, match="memory:Tiny is made already, so args cannot be given to it"):
        fixed.net(fixed.recipe.student.network, 0)
