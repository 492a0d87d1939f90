"""Mixed images in training: the loss of a step by formula, the teacher's view, resumption, and what is refused."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.data.mix import mix
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.models import build_net
from gankd.models.contract import ImageModel, predict
from gankd.runs import Stage
from gankd.seeds import Batches, rng
from gankd.tasks import Classification, Regression, Task
from gankd.training.distill import distill
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.supervised import SupervisedConfig, train_supervised

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CLASSES = Classification(num_classes=3)
AGES = Regression(low=20.0, high=60.0)
TASKS: list[Task] = [CLASSES, AGES]
WAYS = [(CLASSES, "mixup"), (CLASSES, "cutmix"), (CLASSES, "both"), (AGES, "mixup")]


def data_of(task: Task, purpose: str = "real") -> LabelledImages:
    images = torch.randint(256, (40, 1, 8, 8), generator=rng(0, purpose), dtype=torch.uint8)
    share = torch.rand(40, generator=rng(1, purpose))
    labels = task.denormalise(share) if isinstance(task, Regression) else (share * 3).long()
    return LabelledImages(images, labels, task)


def model(task: Task, seed: int = 0) -> ImageModel:
    net = build_net("cnn4", in_channels=1, image_size=8, num_outputs=task.head_size, seed=seed)
    return ImageModel.for_data(net, data_of(task))


def fakes_of(task: Task) -> Fakes:
    """Generated images whose given teacher outputs are wrong: they must not be read."""
    data = data_of(task, "fake")
    labels = F.one_hot(data.labels, 3).float() * 0.7 + 0.1 if task is CLASSES else data.labels
    return Fakes(data.images, labels, torch.full_like(predict(model(task), data.images, PLAIN), 1e3))


def config_of(how: str, **settings: Any) -> DistillConfig:
    plain: dict[str, Any] = {"updates": 1, "batch_size": 10, "lr": 0.1, "optimizer": "sgd", "weight_decay": 0.0}
    return DistillConfig(**{**plain, "mix": how, **settings})


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(("task", "how"), WAYS)
def test_the_loss_of_a_step_by_formula(task: Task, how: str) -> None:
    real, fakes, teacher = data_of(task), fakes_of(task), model(task, seed=9).eval()
    stage = Stage("student")
    lesson = Lesson("0.7*Label + 0.3*KD" + ("(T=1.0)" if task is CLASSES else ""), teacher)
    config = config_of(how, fake_share=0.4, mix_alpha=2.0)
    distill(model(task), real, real, config, PLAIN, 7, lesson=lesson, fakes=fakes, stage=stage)

    rows = Batches(40, 6, 7, "student real")(0), Batches(40, 4, 7, "student fake")(0)
    labels = torch.cat([task.mixable(real.labels[rows[0]]), task.mixable(fakes.labels[rows[1]])])
    images = torch.cat([real.images[rows[0]], fakes.images[rows[1]]])
    images, labels = mix(images, labels, task, how, 2.0, rng(7, "mix", 0))  # type: ignore[arg-type]
    with torch.no_grad():
        outputs, wanted = model(task).train()(images), teacher(images)
    if task is CLASSES:
        label = -(labels * outputs.log_softmax(1)).sum(1)
        p, q = wanted.softmax(1), outputs.softmax(1)
        soft = (p * (p / q).log()).sum(1)
    else:
        label, soft = ((outputs - labels) / 40) ** 2, ((outputs - wanted) / 40) ** 2
    found = stage.history[0]
    assert found["Label"] == pytest.approx(label.mean().item(), rel=1e-4)
    assert found["KD"] == pytest.approx(soft.mean().item(), rel=1e-4)
    assert found["loss"] == pytest.approx((0.7 * label + 0.3 * soft).mean().item(), rel=1e-4)


@pytest.mark.parametrize("augment", [(), ("crop", "flip")])
@pytest.mark.parametrize(("task", "how"), WAYS)
def test_the_teacher_sees_the_very_view_of_the_student(task: Task, how: str, augment: Any, tmp_path: Path) -> None:
    seen: list[Tensor] = []
    teacher, student, data = model(task, seed=9).eval(), model(task), data_of(task)
    teacher.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    student.register_forward_pre_hook(lambda net, args: seen.append(args[0]) if net.training else None)
    config = config_of(how, updates=3, augment=augment, store_features=True)
    lesson = Lesson("KD", teacher, folder=tmp_path)
    distill(student, data, data, config, PLAIN, 0, lesson=lesson, fakes=fakes_of(task))
    steps = seen[-6:]  # before them, the dry run
    for first, second in zip(steps[::2], steps[1::2], strict=True):
        assert torch.equal(first, second)
        assert first.shape == (10, 1, 8, 8)
    assert not torch.equal(steps[0], steps[2])
    assert not list(tmp_path.iterdir())  # nothing was stored


@pytest.mark.parametrize(("task", "how"), WAYS)
def test_a_student_of_mixed_images_resumes_bit_for_bit(
    task: Task, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(how, updates=8, optimizer="adamw", lr=0.01, augment=("crop", "erase", "trivial"))

    def train(stage: Stage) -> ImageModel:
        lesson = Lesson("Label + KD", model(task, seed=9))
        data = data_of(task)
        return distill(model(task), data, data, config, PLAIN, 3, lesson=lesson, fakes=fakes_of(task), stage=stage)

    whole = train(Stage("student"))

    class Stopped(Exception):
        pass

    def stop(self: Stage, images: int, **terms: Any) -> None:
        self.checkpoint_seconds = 0.0
        if self._step == 5:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "report", stop)
        with pytest.raises(Stopped):
            train(Stage("student", tmp_path / "student"))
    assert same(whole, train(Stage("student", tmp_path / "student")))
    plain = replace(config, mix="none")
    assert not same(whole, distill(model(task), data_of(task), data_of(task), plain, PLAIN, 3, fakes=fakes_of(task)))


@pytest.mark.parametrize(("task", "how"), WAYS)
def test_a_teacher_learns_from_mixed_images_as_a_student_of_labels_does(
    task: Task, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = data_of(task), config_of(how, updates=4)
    student = distill(model(task), data, data, config, PLAIN, 7)
    monkeypatch.setattr(
        "gankd.training.supervised.Batches", lambda size, batch, seed, _: Batches(size, batch, seed, "student real")
    )
    settings = SupervisedConfig(**{one.name: getattr(config, one.name) for one in fields(SupervisedConfig)})
    assert same(student, train_supervised(model(task), data, data, settings, PLAIN, 7))
    assert not same(student, train_supervised(model(task), data, data, replace(settings, mix="none"), PLAIN, 7))


@pytest.mark.parametrize(
    ("task", "loss", "name"),
    [
        (CLASSES, "CRD", "CRD reads index"),
        (AGES, "CRD", "CRD reads index"),
        (CLASSES, "KD + DKD", "DKD reads labels"),
        (CLASSES, "TfKD", "TfKD reads labels"),
        (CLASSES, "SSKD", "SSKD reads labels"),
        (CLASSES, "KD@table", "KD@table reads targets of single labels"),
        (CLASSES, "KD@bank(stored=True)", "reads targets of single labels"),
    ],
)
def test_losses_that_need_one_image_are_refused_in_one_line(task: Task, loss: str, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        distill(
            model(task),
            data_of(task),
            data_of(task),
            config_of("mixup"),
            PLAIN,
            0,
            lesson=Lesson(loss, model(task, 9)),
            stage=Stage("student"),
        )
    assert name in str(error.value)
    assert "mixed images do not have; set mix=none, or leave" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "loss"),
    [(CLASSES, "CE + KD + RKD + FitNet"), (CLASSES, "LS + FT"), (AGES, "Label + KD + SP"), (AGES, "KD + AT")],
)
def test_other_losses_work_on_mixed_images(task: Task, loss: str) -> None:
    data = data_of(task)
    lesson = Lesson(loss, model(task, seed=9))
    before = model(task)
    after = distill(model(task), data, data, config_of("mixup", lr=1e-3), PLAIN, 0, lesson=lesson, fakes=fakes_of(task))
    assert not same(before, after)


def test_values_are_not_cut() -> None:
    data = data_of(AGES)
    with pytest.raises(ConfigError, match="mix=cutmix is not for regression; choose one of none, mixup"):
        distill(model(AGES), data, data, config_of("cutmix"), PLAIN, 0)
    with pytest.raises(ConfigError, match="mix=both is not for regression; choose one of none, mixup"):
        train_supervised(model(AGES), data, data, SupervisedConfig(mix="both"), PLAIN, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 4, "augment": ("flip",)}, "makes new images at every step, so views must be online, got 4"),
        ({"kd_on": "real"}, "joins real and generated images, so kd_on must be both, got real"),
        ({"mix_alpha": 0.0}, "mix_alpha must"),
    ],
)
def test_settings_that_mixing_excludes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("mixup", **settings)
