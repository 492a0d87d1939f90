"""Teacher outputs once: what is stored is what the teacher says of the very view that the student sees."""

from dataclasses import replace
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
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification, Regression, Task
from gankd.training import teacher_outputs
from gankd.training.distill import DistillConfig, Fakes, Learner
from gankd.training.objective import Objective, term

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


def learner(task: Task, objective: Objective, *, folder: Path | None = None, **config: Any) -> Learner:
    other = toy(task, 12, "fake")
    return Learner(
        network(task, "cnn4"),
        toy(task),
        DistillConfig(**({"updates": 8, "batch_size": 8} | config)),
        PLAIN,
        3,
        objective=objective,
        fakes=Fakes(other.images, other.labels, folder=folder),
        teacher=network(task, "resnet8", 1).eval(),
        folder=folder,
    )


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


def recorded(made: Learner, steps: int = 3) -> list[dict[str, Any]]:
    with made:
        made.start()
        SEEN.clear()
        for step in range(steps):
            made.update(step)
    return SEEN[:]


def gap(a: Any, b: Any) -> float:
    pairs = zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]
    return max(float((x - y).detach().abs().max() / y.detach().abs().max()) for x, y in pairs)


@pytest.mark.parametrize("config", [{}, {"augment": ("shift", "rotate"), "views": 3}], ids=["as they are", "views"])
@pytest.mark.parametrize("task", [CLASSES, AGES], ids=["classes", "values"])
def test_stored_is_what_the_teacher_says_of_the_view(task: Task, config: dict[str, Any], tmp_path: Path) -> None:
    stored = recorded(learner(task, term(record), store_features=True, folder=tmp_path, **config))
    assert len(list(tmp_path.glob("teacher-*.safetensors"))) == 2  # of real and of generated images
    calls: list[int] = []
    again = learner(task, term(record), store_features=True, folder=tmp_path, **config)
    assert again.connection.teacher is not None
    again.connection.teacher.model.register_forward_hook(lambda *_: calls.append(1))
    for first, second in zip(stored, recorded(again), strict=True):
        assert all(gap(first[name], second[name]) == 0 for name in first if name.startswith("teacher"))
    assert not calls  # the second student's teacher never runs
    reader = learner(task, term(record), **config).connection.teacher
    assert reader is not None
    for seen in stored:
        with torch.no_grad():
            fresh = reader(seen["images"])[1]
        for name, value in fresh.items():
            assert gap(seen[name], value) < 2e-3, name  # float16
        if isinstance(task, Regression):
            assert gap(seen["teacher_outputs"], fresh["teacher_outputs"]) < 1e-5  # values stay float32


def test_views_are_the_same_for_every_student_and_differ_from_each_other(tmp_path: Path) -> None:
    config: dict[str, Any] = {"augment": ("shift",), "views": 4}
    one, two = learner(CLASSES, term("KD"), **config), learner(CLASSES, term("KD"), **config)
    assert one.feed.real_views is not None
    assert two.feed.real_views is not None
    assert torch.equal(one.feed.real_views, two.feed.real_views)
    assert len({tuple(view.flatten().tolist()) for view in one.feed.real_views}) == 4
    seen = torch.cat([one.feed(step).view for step in range(8)])  # type: ignore[misc]
    assert set(seen.tolist()) == {0, 1, 2, 3}


def test_augmentation_online_never_reads_what_is_stored(tmp_path: Path) -> None:
    recorded(learner(CLASSES, term(record), store_features=True, folder=tmp_path))
    online = learner(CLASSES, term(record), store_features=True, folder=tmp_path, augment=("shift",))
    reader = learner(CLASSES, term(record)).connection.teacher
    assert reader is not None
    for seen in recorded(online):
        with torch.no_grad():
            assert gap(seen["teacher_outputs"], reader(seen["images"])[1]["teacher_outputs"]) < 1e-5


def test_features_are_stored_only_on_request(tmp_path: Path) -> None:
    recorded(learner(CLASSES, Objective.parse("KD + AT"), folder=tmp_path))
    assert not list(tmp_path.iterdir())
    recorded(learner(CLASSES, Objective.parse("KD"), folder=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("part", ["teacher", "images", "views", "taps", "signals"])
def test_outputs_of_something_else_are_refused(part: str, tmp_path: Path) -> None:
    """As after copying a file from another run, or renaming it."""
    learner(CLASSES, term("KD"), folder=tmp_path).connection.close()
    for path in tmp_path.iterdir():
        content = load_state(path)
        content["key"][part] = "other"
        save_state(path, content)
    with pytest.raises(CheckpointError, match=f"holds teacher outputs for other {part}, which would not fit"):
        learner(CLASSES, term("KD"), folder=tmp_path)


def test_another_teacher_other_images_or_views_are_another_file(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(tmp_path.iterdir()))

    learner(CLASSES, term("KD"), folder=tmp_path)
    learner(CLASSES, term("KD"), folder=tmp_path, augment=("shift",), views=2)
    assert files() == 4
    learner(CLASSES, term("KD"), folder=tmp_path, augment=("shift",), views=3)
    assert files() == 6
    learner(CLASSES, term("KD"), folder=tmp_path)
    assert files() == 6


def test_what_float16_cannot_hold_stays_float32() -> None:
    value = torch.tensor([[1.0, 7e4]])
    assert teacher_outputs._small(value, "teacher_logits").dtype == torch.float32
    assert teacher_outputs._small(value / 10, "teacher_logits").dtype == torch.float16


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_training_from_stored_and_from_online_signals_agrees(share: float) -> None:
    def trained(**config: Any) -> list[Tensor]:
        with learner(CLASSES, Objective.parse(EVERYTHING), fake_share=share, lr=1e-3, **config) as made:
            made.start()
            for step in range(3):
                made.update(step)
            return [p.detach() for p in made.student.parameters()]

    for stored, online in zip(trained(store_features=True), trained(), strict=True):
        torch.testing.assert_close(stored, online, rtol=0, atol=2e-3)


def test_given_outputs_of_generated_images_are_used_as_they_are() -> None:
    task = CLASSES
    data, other = toy(task), toy(task, 12, "fake")
    given = torch.randn(12, 3, generator=rng(0, "given"))
    made = Learner(
        network(task, "cnn4"),
        data,
        replace(DistillConfig(updates=4, batch_size=8), fake_share=1.0),
        PLAIN,
        0,
        objective=term("KD"),
        fakes=Fakes(other.images, other.labels, given),
        teacher=network(task, "resnet8", 1),
    )
    batch = made.feed(0)
    assert batch.fake_index is not None
    assert torch.equal(made._teaching(batch)["teacher_outputs"], given[batch.fake_index])
