"""Teacher outputs once: what is stored is what the teacher says of the very view that the student sees."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import CheckpointError
from gankd.losses.distillation import loss
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification, Regression, Task
from gankd.training import teacher_outputs
from gankd.training.criterion import Reader
from gankd.training.distill import Feed, Teaching, distill
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.objective import Objective, term
from gankd.training.wiring import connect

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CLASSES, AGES = Classification(num_classes=3), Regression(low=20.0, high=60.0)
EVERYTHING = "KD + AT + RKD + OFD + SSKD"
"""Outputs, maps, embedding, maps before their ReLU, rotated views."""
SEEN: list[dict[str, Any]] = []


def toy(task: Task, count: int = 20, purpose: str = "toy") -> LabelledImages:
    images = torch.randint(256, (count, 1, 16, 16), dtype=torch.uint8, generator=rng(0, purpose))
    return LabelledImages(images, task.sample_labels(count, torch.arange(3), "uniform", rng(1, purpose)), task)


def network(task: Task, name: str, seed: int = 0) -> ImageModel:
    net = build_net(name, in_channels=1, image_size=16, num_outputs=task.head_size, seed=seed)
    return ImageModel.for_data(net, toy(task))


class Steps(Stage):
    """The first three updates of a training."""

    def steps(self, total: int, **state: Any) -> Iterator[int]:
        yield from range(3)


def trained(
    task: Task,
    loss: Objective | str,
    folder: Path | None = None,
    hook: Callable[..., None] | None = None,
    **config: Any,
) -> ImageModel:
    """A student after three updates."""
    other, teacher = toy(task, 12, "fake"), network(task, "resnet8", 1).eval()
    if hook is not None:
        teacher.register_forward_hook(hook)
    return distill(
        network(task, "cnn4"),
        toy(task),
        toy(task),
        DistillConfig(**({"updates": 8, "batch_size": 8} | config)),
        PLAIN,
        3,
        lesson=Lesson(loss, teacher, folder=folder),
        fakes=Fakes(other.images, other.labels, folder=folder),
        stage=Steps("student"),
    )


def feed(**config: Any) -> Feed:
    settings = DistillConfig(**({"updates": 8, "batch_size": 8} | config))
    other = toy(CLASSES, 12, "fake")
    return Feed(toy(CLASSES), Fakes(other.images, other.labels), settings, PLAIN, 3)


def reader(task: Task) -> Reader:
    """Reads of the teacher whatever `record` reads."""
    lesson = Lesson(term(record), network(task, "resnet8", 1).eval())
    found = connect(network(task, "cnn4"), lesson, toy(task), DistillConfig(), PLAIN, 3).teacher
    assert found is not None
    return found


@loss("Record")
def record(
    images: Tensor,
    student_outputs: Tensor,
    student_features: list[Tensor],
    teacher_outputs: Tensor,
    teacher_embedding: Tensor,
    teacher_features: list[Tensor],
    teacher_preactivations: list[Tensor],
    rotated_teacher_outputs: Tensor,
    rotated_teacher_embedding: Tensor,
) -> Tensor:
    SEEN.append(dict(locals()))
    return student_outputs.sum() * 0


def recorded(task: Task, **given: Any) -> list[dict[str, Any]]:
    SEEN.clear()
    trained(task, term(record), **given)
    return SEEN[1:]  # the first is the dry run


def gap(a: Any, b: Any) -> float:
    pairs = zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]
    return max(float((x - y).detach().abs().max() / y.detach().abs().max()) for x, y in pairs)


@pytest.mark.parametrize("config", [{}, {"augment": ("shift", "rotate"), "views": 3}], ids=["as they are", "views"])
@pytest.mark.parametrize("task", [CLASSES, AGES], ids=["classes", "values"])
def test_stored_is_what_the_teacher_says_of_the_view(task: Task, config: dict[str, Any], tmp_path: Path) -> None:
    stored = recorded(task, store_features=True, folder=tmp_path, **config)
    assert len(list(tmp_path.glob("teacher-*.safetensors"))) == 2  # of real and of generated images
    calls: list[int] = []
    again = recorded(
        task, store_features=True, folder=tmp_path, hook=lambda *args: calls.append(len(args[1][0])), **config
    )
    for first, second in zip(stored, again, strict=True):
        assert all(gap(first[name], second[name]) == 0 for name in first if name.startswith("teacher"))
    assert max(calls) <= 16  # the dry run, four images turned four times: the second student's teacher never trains
    read = reader(task)
    for seen in stored:
        with torch.no_grad():
            fresh = read(seen["images"])[1]
        for name, value in fresh.items():
            assert gap(seen[name], value) < 2e-3, name  # float16
        if isinstance(task, Regression):
            assert gap(seen["teacher_outputs"], fresh["teacher_outputs"]) < 1e-5  # values stay float32


def test_views_are_the_same_for_every_student_and_differ_from_each_other() -> None:
    config: dict[str, Any] = {"augment": ("shift",), "views": 4}
    one, two = feed(**config), feed(**config)
    assert one.real_views is not None
    assert two.real_views is not None
    assert torch.equal(one.real_views.key()[0], two.real_views.key()[0])
    assert len({tuple(view.flatten().tolist()) for view in one.real_views.key()[0]}) == 4
    seen = torch.cat([one(step).view for step in range(8)])  # type: ignore[misc]
    assert set(seen.tolist()) == {0, 1, 2, 3}


def test_augmentation_online_never_reads_what_is_stored(tmp_path: Path) -> None:
    recorded(CLASSES, store_features=True, folder=tmp_path)
    read = reader(CLASSES)
    for seen in recorded(CLASSES, store_features=True, folder=tmp_path, augment=("shift",)):
        with torch.no_grad():
            assert gap(seen["teacher_outputs"], read(seen["images"])[1]["teacher_outputs"]) < 1e-5


def test_features_are_stored_only_on_request(tmp_path: Path) -> None:
    trained(CLASSES, "KD + AT", tmp_path)
    assert not list(tmp_path.iterdir())
    trained(CLASSES, "KD", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("part", ["teacher", "images", "views", "taps", "signals"])
def test_outputs_of_something_else_are_refused(part: str, tmp_path: Path) -> None:
    """As after copying a file from another run, or renaming it."""
    trained(CLASSES, "KD", tmp_path)
    for path in tmp_path.iterdir():
        content = load_state(path)
        content["key"][part] = "other"
        save_state(path, content)
    with pytest.raises(CheckpointError, match=f"holds teacher outputs for other {part}, which would not fit"):
        trained(CLASSES, "KD", tmp_path)


def test_another_teacher_other_images_or_views_are_another_file(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(tmp_path.iterdir()))

    trained(CLASSES, "KD", tmp_path)
    trained(CLASSES, "KD", tmp_path, augment=("shift",), views=2)
    assert files() == 4
    trained(CLASSES, "KD", tmp_path, augment=("shift",), views=3)
    assert files() == 6
    trained(CLASSES, "KD", tmp_path)
    assert files() == 6


def test_what_float16_cannot_hold_stays_float32() -> None:
    value = torch.tensor([[1.0, 7e4]])
    assert teacher_outputs._small(value, "teacher_logits", CLASSES).dtype == torch.float32
    assert teacher_outputs._small(value / 10, "teacher_logits", CLASSES).dtype == torch.float16


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_training_from_stored_and_from_online_signals_agrees(share: float) -> None:
    def weights(**config: Any) -> list[Tensor]:
        student = trained(CLASSES, EVERYTHING, fake_share=share, lr=1e-3, **config)
        return [parameter.detach() for parameter in student.parameters()]

    for stored, online in zip(weights(store_features=True), weights(), strict=True):
        torch.testing.assert_close(stored, online, rtol=0, atol=2e-3)


def test_given_outputs_of_generated_images_are_used_as_they_are() -> None:
    task = CLASSES
    data, other = toy(task), toy(task, 12, "fake")
    given = torch.randn(12, 3, generator=rng(0, "given"))
    config = DistillConfig(updates=4, batch_size=8, fake_share=1.0)
    images = Feed(data, Fakes(other.images, other.labels, given), config, PLAIN, 0)
    lesson = Lesson("KD", network(task, "resnet8", 1).eval())
    with connect(network(task, "cnn4"), lesson, data, config, PLAIN, 0) as net:
        batch = images(0)
        assert batch.fake_index is not None
        assert torch.equal(Teaching(net, images, task, None)(batch)["teacher_outputs"], given[batch.fake_index])
