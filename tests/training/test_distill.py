"""Training students: the loss of one step by formula, shares of real and generated images, and limits that must
coincide with plainer training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.augment import Augmentation
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.models import build_net
from gankd.models.contract import ImageModel, evaluate, predict
from gankd.runs import Stage
from gankd.seeds import Batches, rng
from gankd.tasks import Classification, Regression, Task
from gankd.training import distill as module
from gankd.training import supervised
from gankd.training.distill import Feed, distill
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.objective import Objective, term
from gankd.training.supervised import SupervisedConfig, train_supervised

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CLASSES = Classification(num_classes=3)
AGES = Regression(low=20.0, high=60.0)
TASKS: list[Task] = [CLASSES, AGES]


def toy(task: Task, count: int = 40, purpose: str = "real") -> LabelledImages:
    """Brightness of a noisy image tells the label."""
    share = torch.rand(count, generator=rng(0, purpose))
    noise = torch.rand((count, 1, 8, 8), generator=rng(0, purpose, "noise"))
    images = (255 * (0.6 * share[:, None, None, None] + 0.4 * noise)).to(torch.uint8)
    labels = task.denormalise(share) if isinstance(task, Regression) else (share * 3).long()
    return LabelledImages(images, labels, task)


def model(task: Task, seed: int = 0) -> ImageModel:
    net = build_net("cnn4", in_channels=1, image_size=8, num_outputs=task.head_size, seed=seed)
    return ImageModel.for_data(net, toy(task))


def teacher_of(task: Task) -> ImageModel:
    return model(task, seed=9).eval()


def fakes_of(task: Task, labels: Tensor | None = None) -> Fakes:
    data = toy(task, 30, "fake")
    outputs = predict(teacher_of(task), data.images, PLAIN)
    return Fakes(data.images, data.labels if labels is None else labels, outputs)


CONFIG = DistillConfig(updates=1, batch_size=10, lr=0.1, optimizer="sgd", weight_decay=0.0)


def weights(net: torch.nn.Module) -> list[Tensor]:
    return [value.clone() for value in net.state_dict().values()]


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def train(task: Task, config: DistillConfig, **inputs: Any) -> ImageModel:
    return distill(model(task), toy(task), toy(task), config, PLAIN, 7, **inputs)


def first_loss(task: Task, config: DistillConfig, **inputs: Any) -> dict[str, float]:
    stage = Stage("student")
    train(task, config, stage=stage, **inputs)
    return stage.history[0]


@pytest.mark.parametrize("kd_on", ["both", "real", "fake"])
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_by_formula(task: Task, kd_on: str) -> None:
    config = replace(CONFIG, fake_share=0.4, kd_on=kd_on)  # type: ignore[arg-type]
    real, fakes, teacher = toy(task), fakes_of(task), teacher_of(task)
    settings = "(T=2.0)" if task is CLASSES else ""
    objective = Objective.parse(f"0.7*Label + 0.3*KD{settings}")
    found = first_loss(task, config, fakes=fakes, lesson=Lesson(objective, teacher))

    real_index = Batches(40, 6, 7, "student real")(0)
    fake_index = Batches(30, 4, 7, "student fake")(0)
    images = torch.cat([real.images[real_index], fakes.images[fake_index]])
    labels = torch.cat([real.labels[real_index], fakes.labels[fake_index]])
    with torch.no_grad():
        outputs, wanted = model(task).train()(images), teacher(images)
    label = F.cross_entropy(outputs, labels, reduction="none") if task is CLASSES else ((outputs - labels) / 40) ** 2
    if task is CLASSES:
        p, q = (wanted / 2).softmax(1), (outputs / 2).softmax(1)
        soft = 4 * (p * (p / q).log()).sum(1)
    else:
        soft = ((outputs - wanted) / 40) ** 2
    is_fake = torch.arange(10) >= 6
    taught = {"both": torch.ones(10).bool(), "real": ~is_fake, "fake": is_fake}[kd_on]
    loss = 0.7 * label.mean() + 0.3 * soft[taught].mean()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert found["Label"] == pytest.approx(label.mean().item(), rel=1e-4)
    assert found["KD"] == pytest.approx(soft[taught].mean().item(), rel=1e-4)


@pytest.mark.parametrize("losses", ["Label", "0.5*Label + AT"])
def test_validation_images_are_measured_on_the_way_and_change_nothing(
    losses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, nets, steps = replace(CONFIG, updates=20, augment=("shift",)), [], []
    for points in (1, 8):
        monkeypatch.setattr(supervised, "CURVE_POINTS", points)
        stage, lesson = Stage("student"), Lesson(losses, teacher_of(CLASSES))
        nets.append(train(CLASSES, config, lesson=lesson, stage=stage))
        steps.append([line["step"] for line in stage.history if "val_top1" in line])
    assert equal(*nets)
    assert steps == [[20], [3, 5, 8, 10, 13, 15, 18, 20]]


MORE = replace(CONFIG, updates=5, optimizer="adamw", lr=0.01)


@pytest.mark.parametrize("task", TASKS)
def test_without_weight_the_teacher_changes_nothing(task: Task) -> None:
    fakes, teacher = fakes_of(task), teacher_of(task)
    alone = train(task, MORE, fakes=fakes)
    assert equal(alone, train(task, MORE, fakes=fakes, lesson=Lesson(0 * term("KD"), teacher)))
    assert not equal(alone, train(task, MORE, fakes=fakes, lesson=Lesson(0.1 * term("KD"), teacher)))


@pytest.mark.parametrize("task", TASKS)
def test_with_all_weight_the_labels_change_nothing(task: Task) -> None:
    other = LabelledImages(toy(task).images, toy(task).labels.flip(0), task)
    objective = Objective.parse("0*Label + KD")
    students = [
        distill(model(task), real, toy(task), MORE, PLAIN, 7, lesson=Lesson(objective, teacher_of(task)))
        for real in (toy(task), other)
    ]
    assert equal(*students)


@pytest.mark.parametrize("task", TASKS)
def test_without_fakes_and_teacher_it_is_supervised_training(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    student = train(task, MORE)
    # the two loops draw their batches under different names
    monkeypatch.setattr(
        "gankd.training.supervised.Batches", lambda size, batch, seed, _: Batches(size, batch, seed, "student real")
    )
    config = SupervisedConfig(updates=5, batch_size=10, lr=0.01, optimizer="adamw", weight_decay=0.0)
    assert equal(student, train_supervised(model(task), toy(task), toy(task), config, PLAIN, 7))


def test_soft_labels_that_are_certain_are_hard_labels() -> None:
    hard = fakes_of(CLASSES)
    soft = fakes_of(CLASSES, F.one_hot(hard.labels, 3).float())
    a, b = train(CLASSES, MORE, fakes=hard), train(CLASSES, MORE, fakes=soft)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y)
    even = train(CLASSES, MORE, fakes=fakes_of(CLASSES, torch.full((30, 3), 1 / 3)))
    assert not torch.allclose(next(a.parameters()), next(even.parameters()))


@pytest.mark.parametrize(("share", "num_fake"), [(0.1, 1), (0.25, 2), (0.5, 5), (0.7, 7), (0.99, 10), (1.0, 10)])
def test_each_batch_has_the_share_of_fakes(share: float, num_fake: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LabelledImages(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), toy(CLASSES).labels, CLASSES)
    fakes = replace(fakes_of(CLASSES), images=torch.full((30, 1, 8, 8), 255, dtype=torch.uint8))
    seen: list[Tensor] = []
    student = model(CLASSES)
    student.register_forward_pre_hook(lambda net, args: seen.append(args[0]) if net.training else None)
    config = replace(CONFIG, fake_share=share, updates=4)
    distill(student, real, real, config, PLAIN, 0, fakes=fakes, lesson=Lesson(term("KD"), teacher_of(CLASSES)))
    assert len(seen) == 4
    for images in seen:
        assert len(images) == 10
        assert int((images[:, 0, 0, 0] == 255).sum()) == num_fake
        assert (images[: 10 - num_fake] == 0).all()


@pytest.mark.parametrize("task", TASKS)
def test_of_many_generated_images_the_least_fitted_are_taken(task: Task) -> None:
    student, fakes = model(task), fakes_of(task)
    feed = Feed(toy(task), fakes, replace(CONFIG, fake_choices=3), PLAIN, 7, student)
    drawn = Batches(30, 15, 7, "student fake")(4)  # 5 of a batch of 10, from 15
    misfit = {}
    for number in drawn.tolist():
        output = predict(student, fakes.images[number : number + 1], PLAIN)[0].double()
        label = fakes.labels[number]
        misfit[number] = -output.log_softmax(0)[label] if task == CLASSES else (output - label).abs()
    worst = sorted(misfit, key=lambda number: -float(misfit[number]))[:5]
    batch = feed(4)
    assert batch.fake_index is not None
    assert sorted(batch.fake_index.tolist()) == sorted(worst)
    assert torch.equal(feed.index(4)[5:], batch.fake_index + 40)


def test_soft_labels_are_fitted_by_their_divergence() -> None:
    logits = torch.randn(20, 3, generator=rng(0, "logits"))
    labels = torch.randn(20, 3, generator=rng(0, "labels")).softmax(1)
    divergence = (labels * (labels.log() - logits.log_softmax(1))).sum(1)
    torch.testing.assert_close(CLASSES.excess_loss(logits, labels), divergence)
    torch.testing.assert_close(CLASSES.excess_loss(labels.log(), labels), torch.zeros(20), atol=1e-6, rtol=0)


def test_choosing_leaves_no_trace_in_batch_statistics() -> None:
    student = model(CLASSES)
    before = weights(student)
    Feed(toy(CLASSES), fakes_of(CLASSES), replace(CONFIG, fake_choices=4), PLAIN, 7, student)(0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(student), strict=True))
    assert student.training


@pytest.mark.parametrize("changes", [{}, {"fake_share": 1.0}, {"fake_choices": 3}, {"fake_until": 0.75}])
def test_as_many_generated_images_as_a_training_draws_are_drawn_once_each(changes: dict[str, Any]) -> None:
    config = replace(CONFIG, updates=8, **changes)
    data = toy(CLASSES, config.generated_seen, "fake")
    feed = Feed(toy(CLASSES), Fakes(data.images, data.labels), config, PLAIN, 7, model(CLASSES))
    assert feed._fake_batches is not None
    drawn = torch.cat([feed._fake_batches(step) for step in range(round(config.fake_until * 8))])
    assert sorted(drawn.tolist()) == list(range(config.generated_seen))


def test_generated_images_end_before_the_last_updates() -> None:
    feed = Feed(toy(CLASSES), fakes_of(CLASSES), replace(CONFIG, updates=20, fake_until=0.9), PLAIN, 7)
    assert [feed(step).num_real for step in range(20)] == [5] * 18 + [10] * 2
    last = torch.cat([feed.index(step) for step in (18, 19)])
    assert last.max() < 40
    assert len(last.unique()) == 20


def test_a_student_sees_all_images_in_turn() -> None:
    data, fakes = toy(CLASSES), fakes_of(CLASSES)
    real_seen: list[bytes] = []
    student = model(CLASSES)

    def watch(net: torch.nn.Module, args: tuple[Tensor]) -> None:
        if net.training:
            real_seen.extend(image.numpy().tobytes() for image in args[0])

    student.register_forward_pre_hook(watch)
    distill(student, data, data, replace(CONFIG, updates=12, fake_share=0.5), PLAIN, 0, fakes=fakes)
    counts = [real_seen.count(image.numpy().tobytes()) for image in data.images]
    assert set(counts) == {1, 2}  # 60 of 40
    assert sum(counts) == 60
    assert {real_seen.count(image.numpy().tobytes()) for image in fakes.images} == {2}  # 60 of 30


@pytest.mark.parametrize("task", TASKS)
def test_stored_and_online_teachers_agree(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = fakes_of(task)
    stored = train(task, MORE, fakes=fakes, lesson=Lesson(term("KD"), teacher_of(task)))

    def unchanged(images: Tensor, kinds: tuple[Augmentation, ...], generator: torch.Generator) -> Tensor:
        return images.float() / 255

    monkeypatch.setattr(module, "augment", unchanged)
    given = torch.zeros(30) if isinstance(task, Regression) else torch.zeros(30, 3)
    wrong = replace(fakes, teacher_outputs=given)  # must not be read
    config = replace(MORE, augment=("flip",))
    online = train(task, config, fakes=wrong, lesson=Lesson(term("KD"), teacher_of(task)))
    for a, b in zip(stored.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_an_online_teacher_sees_the_augmented_view() -> None:
    seen: list[Tensor] = []
    teacher, student = teacher_of(CLASSES), model(CLASSES)
    teacher.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    student.register_forward_pre_hook(lambda net, args: seen.append(args[0]) if net.training else None)
    before = weights(teacher)
    config = replace(CONFIG, augment=("shift", "rotate"), updates=2)
    distill(student, toy(CLASSES), toy(CLASSES), config, PLAIN, 0, lesson=Lesson(term("KD"), teacher))
    student_saw_then_teacher = seen[-4:]  # before them, the dry run
    assert torch.equal(student_saw_then_teacher[0], student_saw_then_teacher[1])
    assert not torch.equal(student_saw_then_teacher[0], student_saw_then_teacher[2])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(teacher), strict=True))  # nor its statistics


@pytest.mark.parametrize("task", TASKS)
def test_a_student_learns_from_a_teacher_alone(task: Task) -> None:
    data = toy(task)
    settings = SupervisedConfig(updates=60, batch_size=32, lr=0.02)
    teacher = train_supervised(model(task, seed=9), data, data, settings, PLAIN, 0)
    shuffled = LabelledImages(data.images, data.labels[torch.randperm(40, generator=rng(0, "p"))], task)
    config = DistillConfig(updates=60, batch_size=32, lr=0.02)
    objective = Objective.parse("0*Label + KD")
    student = distill(model(task), shuffled, data, config, PLAIN, 0, lesson=Lesson(objective, teacher))
    found, chance = evaluate(student, data, PLAIN), task.chance(data.labels)
    if isinstance(task, Classification):
        assert found["top1"] > chance + 20
    else:
        assert found["mae"] < 0.6 * chance


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fake_share": 0.0}, r"fake_share must lie in \(0, 1\], got 0.0"),
        ({"fake_share": 0.01}, "fake_share 0.01 of batch_size 10 is less than one image"),
        ({"views": 0}, "views must be online or at least 1, got 0"),
        ({"views": 3}, "views=3 needs an augmentation to draw; set augment"),
        ({"updates": 0}, "updates must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings)


@pytest.mark.parametrize("task", TASKS)
def test_objective_and_teacher_are_a_lesson(task: Task) -> None:
    def student(**lesson: Any) -> ImageModel:
        return distill(model(task), toy(task), toy(task), CONFIG, PLAIN, 0, **lesson)

    named = student(objective="KD", teacher=teacher_of(task))
    assert equal(named, student(lesson=Lesson("KD", teacher_of(task))))
    with pytest.raises(ConfigError, match="objective and teacher, or a lesson that holds both; leave one of them out"):
        student(objective="KD", lesson=Lesson("KD"))


class Forgetful(torch.nn.Module):
    """A user's network that draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.LazyLinear(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_dropout_of_the_users_own_network_repeats() -> None:
    task = Classification(num_classes=3)
    data = toy(task)
    trained: list[ImageModel] = []
    for _ in range(2):
        torch.manual_seed(7)
        net = Forgetful()
        net(data.images[:1].float())
        torch.rand(len(trained))  # the process has drawn more or less before: it must not matter
        before = torch.get_rng_state()
        trained.append(
            distill(ImageModel.for_data(net, data), data, data, DistillConfig(updates=5, batch_size=8), PLAIN, seed=3)
        )
        assert torch.equal(torch.get_rng_state(), before)  # nor does training touch what the caller draws next
    assert equal(*trained)
