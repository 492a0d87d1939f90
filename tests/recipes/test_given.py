"""A teacher with the user's weights: read as it was trained, or refused with the likely cause."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gankd.config import override
from gankd.console import Console
from gankd.data.images import LabelledImages, Splits
from gankd.engine import Engine
from gankd.errors import CheckpointError, ConfigError, ModelError
from gankd.models.contract import EndsIn, ImageModel
from gankd.models.head import teacher_head
from gankd.recipes import digits
from gankd.recipes.config import TeacherConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.given import check_given, check_shapes, class_names, users_contract
from gankd.recipes.teacher import make_teacher, teacher_stage
from gankd.runs import Run
from gankd.seeds import rng
from gankd.storage import save_weights
from gankd.tasks import Classification, Regression, Task, task_to_dict
from gankd.tasks.units import likely_unit

ENGINE = Engine(torch.device("cpu"), bf16=False, channels_last=False)
ANGLES = Regression(low=-40.0, high=80.0, unit="degrees")


class Brightness(nn.Module):
    """Reads the label off the brightness of an image on the [0, 1] scale, after a known normalisation.

    Args:
        mean, std: what the network was "trained" with.
        levels: number of classes; 1 for the brightness itself.
    """

    def __init__(self, mean: Tensor, std: Tensor, levels: int) -> None:
        super().__init__()
        self.mean, self.std, self.levels = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1), levels

    def forward(self, x: Tensor) -> Tensor:
        bright = (x * self.std + self.mean).mean((1, 2, 3))
        if self.levels == 1:
            return bright
        centres = (torch.arange(self.levels) + 0.5) / self.levels
        return -((bright[:, None] - centres) ** 2) * 4 * self.levels**2  # (N, K)


class After(nn.Module):
    """A network, and a change of its outputs."""

    def __init__(self, net: nn.Module, change: object) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.change(self.net(x))  # type: ignore[operator]
        return changed


def images(task: Task, channels: int, count: int = 400) -> LabelledImages:
    """Flat images whose brightness is the label."""
    levels = task.head_size
    position = torch.rand(count, generator=rng(1, "brightness"))
    if levels > 1:
        number = torch.arange(count) % levels
        position, labels = (number + 0.5) / levels, number
    else:
        position = (position * 255).round() / 255
        labels = ANGLES.denormalise(position)
    pixels = (position * 255).round().to(torch.uint8)[:, None, None, None].expand(-1, channels, 8, 8).clone()
    return LabelledImages(pixels, labels, task)


def classes(count: int) -> Classification:
    return Classification(num_classes=count, class_names=tuple(str(number) for number in range(count)))


def half(channels: int) -> Tensor:
    return torch.full((channels,), 0.5)


def model(net: nn.Module, data: LabelledImages, mean: Tensor, std: Tensor, task: Task) -> ImageModel:
    offset, factor = (0.0, 1.0) if task.head_size > 1 else task.output_scale
    return ImageModel(net, size=8, mean=mean, std=std, offset=offset, factor=factor).eval()


def checked(teacher: ImageModel, data: LabelledImages) -> list[str]:
    """What the user is told about a teacher that is not refused."""
    said: list[str] = []
    check_given(teacher, data, ENGINE, 0, "teacher Own", lambda _, text: said.append(text))
    return said


TASKS: list[Task] = [classes(2), classes(12), ANGLES]


# --- normalisation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("task", TASKS, ids=["2", "12", "values"])
def test_the_normalisation_it_was_trained_with_is_taken_and_another_refused(task: Task, channels: int) -> None:
    data, middle = images(task, channels), half(channels)
    net = Brightness(middle, 0.5 * torch.ones(channels), task.head_size)
    assert checked(model(net, data, middle, middle, task), data) == []
    # Two classes are also told apart by the data's normalisation.
    name = "that of the data" if task.head_size == 2 else "-1 to 1"
    with pytest.raises(ModelError, match=f"Own fits another normalisation better: {name} .teacher.mean=.0.5") as error:
        checked(model(net, data, 0 * middle, 2 * middle / 255, task), data)
    assert "\n" not in str(error.value)
    assert ("teacher.std=[0.5" in str(error.value)) == (task.head_size != 2)


def test_a_network_that_normalises_inside_wants_images_from_0_to_1_or_255() -> None:
    data, task = images(classes(12), 3), classes(12)
    for top, name in ((1.0, "0 to 1"), (1 / 255, "0 to 255")):
        net = Brightness(torch.zeros(3), top * torch.ones(3), 12)
        with pytest.raises(ModelError, match=rf"better: {name} \("):
            checked(model(net, data, torch.tensor([0.9, 0.9, 0.9]), half(3), task), data)


# --- order of the classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [2, 3, 12])
def test_outputs_in_another_order_are_refused_with_the_order_and_taken_with_it(count: int, channels: int) -> None:
    task = classes(count)
    data, middle = images(task, channels), half(channels)
    names = sorted(task.label_names) if count > 10 else [*task.label_names[1:], "0"]
    theirs = torch.tensor([int(name) for name in names])  # class of each output
    net = After(Brightness(middle, middle, count), lambda outputs: outputs[:, theirs])
    with pytest.raises(ModelError, match="outputs in another order of classes") as error:
        checked(model(net, data, middle, middle, task), data)
    assert f"teacher.class_names={','.join(names)};" in str(error.value)
    assert ("sorted as text" in str(error.value)) == (count > 10)
    config = TeacherConfig(weights="w.pt", mean=(0.5,), std=(0.5,), class_names=tuple(names))
    if names != list(task.label_names[::-1]):
        wrong = users_contract(net, replace(config, class_names=task.label_names[::-1]), data).eval()
        with pytest.raises(ModelError, match=f"teacher.class_names={','.join(names)};"):
            checked(wrong, data)
    mapped = users_contract(net, config, data).eval()
    assert checked(mapped, data) == []
    assert torch.equal(mapped(data.images), Brightness(middle, middle, count)(mapped.normalise(data.images)))


def test_two_classes_of_many_that_are_exchanged_are_found() -> None:
    task = classes(50)
    data, order = images(task, 3, 2000), torch.arange(50)
    order[[3, 4]] = order[[4, 3]]
    net = After(Brightness(half(3), half(3), 50), lambda outputs: outputs[:, order])
    with pytest.raises(ModelError, match=r"likely teacher.class_names=0,1,2,4,3,5"):
        checked(model(net, data, half(3), half(3), task), data)


@pytest.mark.parametrize("count", [2, 12])
def test_weak_teachers_are_not_taken_for_teachers_of_another_order(count: int) -> None:
    task = classes(count)
    data, noise = images(task, 1), torch.Generator().manual_seed(0)
    weak = After(
        Brightness(half(1), half(1), count), lambda outputs: outputs + 20 * torch.randn(outputs.shape, generator=noise)
    )
    constant = After(weak, lambda outputs: 5 * torch.eye(count)[0].expand(len(outputs), count))
    for net in (weak, constant):
        said = " ".join(checked(model(net, data, half(1), half(1), task), data))
        assert "order" not in said


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("cat", "dog"), "each of the 3 classes of the data once, got 2 names; missing: owl"),
        (("cat", "dog", "bat"), "missing: owl; not a class: bat"),
        (("cat", "dog", "owl", "owl"), "got 4 names"),
    ],
)
def test_class_names_that_are_not_those_of_the_data(names: tuple[str, ...], reason: str) -> None:
    task = Classification(num_classes=3, class_names=("cat", "dog", "owl"))
    with pytest.raises(ConfigError, match=reason):
        task.output_order(names, "teacher.class_names")
    with pytest.raises(ConfigError, match=r"teacher.class_names is for classes"):
        ANGLES.output_order(names, "teacher.class_names")


def test_class_names_from_a_file_or_a_card(tmp_path: Path) -> None:
    task = Classification(num_classes=3, class_names=("cat", "dog", "owl"))
    listed = tmp_path / "names.txt"
    listed.write_text("owl\ncat\n\ndog\n")
    assert class_names(TeacherConfig(weights="w.pt", class_names=(str(listed),)), task) == ("owl", "cat", "dog")
    assert task.output_order(("owl", "cat", "dog"), "x").tolist() == [1, 2, 0]
    with pytest.raises(ConfigError, match=r"teacher.class_names: .*none.txt cannot be read \(FileNotFoundError\)"):
        class_names(TeacherConfig(weights="w.pt", class_names=(str(tmp_path / "none.txt"),)), task)
    card = tmp_path / "w.safetensors"
    for names, taken in ((("owl", "cat", "dog"), True), (("a", "b", "c"), False)):
        theirs = Classification(num_classes=3, class_names=names)
        save_weights(card, {"x": torch.zeros(1)}, {"task": task_to_dict(theirs)})
        assert class_names(TeacherConfig(weights=str(card)), task) == (names if taken else ())


def test_the_order_of_classes_belongs_to_the_stage_of_given_weights(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.pt")
    recipe = override(digits(), [f"teacher.weights={tmp_path / 'w.pt'}"])
    experiment = Experiment.open(recipe, Run(tmp_path / "run"))
    other = replace(recipe.teacher, class_names=tuple("1023456789"))
    assert teacher_stage(experiment, other).fingerprint != teacher_stage(experiment, recipe.teacher).fingerprint
    with pytest.raises(ConfigError, match=r"teacher.class_names belongs to teacher.weights, which is not set"):
        Experiment.open(override(digits(), ["teacher.class_names=0,1"]), Run(tmp_path / "run"))


def test_the_teachers_head_has_the_order_of_the_classes() -> None:
    task = classes(3)
    data, order = images(task, 1), torch.tensor([2, 0, 1])
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    teacher = ImageModel(net, size=8, mean=half(1), std=half(1), order=order).eval()
    embedding = teacher.normalise(data.images[:4]).flatten(1)
    torch.testing.assert_close(teacher_head(teacher, data.images[:4], task)(embedding), teacher(data.images[:4]))


# --- outputs of another kind --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 12])
def test_probabilities_are_refused_and_their_logs_are_taken(count: int) -> None:
    task = classes(count)
    data, net = images(task, 3), Brightness(half(3), half(3), count)

    def teacher(change: object) -> ImageModel:
        return model(After(net, change), data, half(3), half(3), task)

    with pytest.raises(ModelError, match="Own ends in a softmax: .*teacher.ends_in=softmax.*remove the softmax"):
        checked(teacher(lambda outputs: outputs.softmax(1)), data)
    with pytest.raises(ModelError, match="Own ends in a sigmoid: .*teacher.ends_in=sigmoid.*remove it"):
        checked(teacher(lambda outputs: (4 + 1.7 * outputs).sigmoid()), data)
    (said,) = checked(teacher(lambda outputs: (outputs / 4).log_softmax(1)), data)
    assert said.startswith("ends in a log_softmax; its outputs serve as logits")
    with pytest.raises(ModelError, match="not finite"):
        checked(teacher(lambda outputs: outputs * math.nan), data)


@pytest.mark.parametrize(
    ("change", "cause", "formula"),
    [
        (ANGLES.normalise, "the unit scale", "-40 + 120 * output"),
        (lambda values: 2 * ANGLES.normalise(values) - 1, r"the scale \[-1, 1\]", "20 + 60 * output"),
        (torch.deg2rad, "radians instead of degrees", "57.2958"),
        (lambda values: 1.8 * values + 32, "Fahrenheit instead of Celsius", "0.555556"),
        (lambda values: values + 100, "another zero", "-100 + 1 * output"),
        (torch.neg, "the opposite sign", "-1 * output"),
        (lambda values: 3.7 * values - 250, "a linear change", "0.27027 * output"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_values_in_another_unit_are_refused_with_the_likely_cause(
    channels: int, change: object, cause: str, formula: str
) -> None:
    data, middle = images(ANGLES, channels), half(channels)
    net = After(After(Brightness(middle, middle, 1), ANGLES.denormalise), change)
    teacher = ImageModel(net, size=8, mean=middle, std=middle).eval()
    with pytest.raises(ModelError, match=f"in another unit than the labels .{cause}") as error:
        checked(teacher, data)
    assert formula in str(error.value)


def test_standardised_labels_are_named() -> None:
    labels = images(ANGLES, 1).labels
    offset, factor, cause = likely_unit((labels - labels.mean()) / labels.std(), labels, -200.0, 300.0)
    assert cause.startswith("standardised")
    assert offset == pytest.approx(labels.mean().item())
    assert factor == pytest.approx(labels.std().item())


def test_a_rough_regressor_in_the_right_unit_is_taken() -> None:
    data, noise = images(ANGLES, 1), torch.Generator().manual_seed(0)
    net = After(
        Brightness(half(1), half(1), 1), lambda values: values + 0.15 * torch.randn(values.shape, generator=noise)
    )
    checked(model(net, data, half(1), half(1), ANGLES), data)


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "setting", "reason"),
    [
        (3, {"mean": (0.5, 0.5)}, "teacher.mean has 2 numbers, the images have 3 channels"),
        (
            1,
            {"mean": (0.485, 0.456, 0.406)},
            "teacher.mean has 3 numbers, the images have 1 channel; give 1, .* add --channels rgb",
        ),
        (1, {"std": (0.2, 0.2)}, "teacher.std has 2 numbers, the images have 1 channel;"),
        (3, {"mean": (0.5,), "std": (0.5,)}, ""),
    ],
)
def test_a_mean_of_another_length(channels: int, setting: dict[str, tuple[float, ...]], reason: str) -> None:
    for task in TASKS:
        config = TeacherConfig(weights="w.pt", **setting)  # type: ignore[arg-type]
        if reason:
            with pytest.raises(ConfigError, match=reason):
                users_contract(nn.Flatten(), config, images(task, channels))
        else:
            assert users_contract(nn.Flatten(), config, images(task, channels)).mean.shape == (1, channels, 1, 1)


@pytest.mark.parametrize(
    ("theirs", "ours", "reason"),
    [
        (
            (3, 10),
            (3, 4),
            r"w.pt has 10 outputs \(1.weight \[10, 5\]\), the data's 4 classes need 4 \(1.weight \[4, 5\]\)",
        ),
        ((3, 10), (3, 1), "w.pt has 10 outputs .*the data's values in .* need 1 "),
        (
            (3, 4),
            (1, 4),
            r"w.pt reads images with channels=3 \(0.weight .*, the data have channels=1; add --channels rgb",
        ),
        ((1, 4), (3, 4), r"w.pt reads images with channels=1 .* the data have channels=3; add --channels grey"),
        ((3, 4), (3, 4), ""),
    ],
)
def test_weights_of_other_classes_or_channels(theirs: tuple[int, int], ours: tuple[int, int], reason: str) -> None:
    (before, after) = (
        nn.Sequential(nn.Conv2d(channels, 5, 3), nn.Linear(5, outputs)) for channels, outputs in (theirs, ours)
    )
    task: Task = classes(ours[1]) if ours[1] > 1 else ANGLES
    data = images(task, ours[0])
    config = TeacherConfig(weights="w.pt")
    if reason:
        with pytest.raises(CheckpointError, match=reason):
            check_shapes(after, before.state_dict(), config, data)
    else:
        check_shapes(after, before.state_dict(), config, data)


def test_the_setting_reaches_the_command_line_as_a_list_or_a_file(tmp_path: Path) -> None:
    weights = f"teacher.weights={tmp_path / 'w.pt'}"
    assert override(digits(), [weights, "teacher.class_names=0,1,10"]).teacher.class_names == ("0", "1", "10")
    assert override(digits(), [weights, "teacher.class_names=names.txt"]).teacher.class_names == ("names.txt",)
    named = override(digits(), [weights, 'teacher.class_names=["a, b", "c"]'])
    assert named.teacher.class_names == ("a, b", "c")


# --- the last step undone, and one output for two classes ----------------------------------------------------


def test_the_inverse_of_the_last_step_gives_the_logits() -> None:
    x, logits = torch.rand(5, 3, 1, 1, generator=rng(0, "x")), 3 * torch.randn(5, 3, generator=rng(0, "logits"))

    def read(outputs: Tensor, ends_in: EndsIn, one_of_two: bool = False) -> Tensor:
        net = After(nn.Identity(), lambda _: outputs)
        return ImageModel(net, size=1, mean=half(3), std=half(3), ends_in=ends_in, one_of_two=one_of_two)(x)

    torch.testing.assert_close(read(logits.softmax(1), "softmax"), logits.log_softmax(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(read(logits.sigmoid(), "sigmoid"), logits, rtol=1e-4, atol=1e-4)
    assert read(torch.tensor([[0.0, 1.0]]), "softmax").isfinite().all()
    z = logits[:, :1]
    pair = torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(read(z.sigmoid(), "sigmoid", one_of_two=True), pair, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pair.softmax(1)[:, 1:], z.sigmoid())  # the same probabilities as the network means
    for single in (z, z[:, 0]):
        assert torch.equal(read(single, "none", one_of_two=True), pair)
    assert torch.equal(read(logits[:, :2], "none", one_of_two=True), logits[:, :2])


ONE_LOGIT = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, num_outputs=1):
        super().__init__()
        self.fc = nn.Linear(in_channels, num_outputs)
    def forward(self, x):
        return self.fc(x.mean((2, 3)))

class Single(Net):
    def __init__(self, in_channels):
        super().__init__(in_channels)

class Sure(Single):
    def forward(self, x):
        return super().forward(x).sigmoid()
"""


@pytest.fixture
def bright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Splits:
    """Dark and bright images, and the weights of networks with one output that tell them apart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "one_logit.py").write_text(ONE_LOGIT)
    torch.save({"fc.weight": torch.full((1, 3), 8.0), "fc.bias": torch.full((1,), -12.0)}, tmp_path / "w.pt")
    labels = torch.arange(60) % 2
    pixels = torch.randint(100, (60, 3, 8, 8), generator=rng(0, "p")) + 120 * labels[:, None, None, None]
    task = Classification(num_classes=2, class_names=("dark", "light"))
    data = LabelledImages(pixels.to(torch.uint8), labels, task)
    return Splits(data, data, data, "bright")


@pytest.mark.parametrize(
    ("name", "more"), [("Net", ()), ("Single", ()), ("Sure", ("teacher.ends_in=sigmoid",)), ("Sure", ())]
)
def test_one_output_for_two_classes(
    name: str, more: tuple[str, ...], bright: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the constructor is asked for two outputs, and the weights have one."""
    settings = (f"teacher.model=one_logit:{name}", "teacher.weights=w.pt", "teacher.mean=[0]", "teacher.std=[1]", *more)
    recipe = override(digits(), settings)
    said: list[str] = []
    console = Console()
    monkeypatch.setattr(console, "say", said.append)
    (tmp_path / "run").mkdir()
    experiment = Experiment.open(recipe, Run(tmp_path / "run", console), bright)
    stage = teacher_stage(experiment, recipe.teacher)
    if name == "Sure" and not more:
        with pytest.raises(ModelError, match="ends in a sigmoid: .*set teacher.ends_in=sigmoid"):
            make_teacher(experiment, recipe.teacher, stage)
        return
    outputs = make_teacher(experiment, recipe.teacher, stage)(bright.test.images)
    z = 24 * bright.test.images.double().mean((1, 2, 3)) / 255 - 12
    torch.testing.assert_close(outputs[:, 1].double(), z, rtol=1e-3, atol=1e-3)
    assert (outputs[:, 0] == 0).all()
    assert any("one output for two classes: read as the logit of light against dark" in line for line in said)
    again = Experiment.open(recipe, Run(tmp_path / "run"), bright)
    restored = make_teacher(again, recipe.teacher, teacher_stage(again, recipe.teacher))
    assert torch.equal(restored(bright.test.images), outputs)
