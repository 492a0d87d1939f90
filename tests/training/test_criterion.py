"""Losses wired to two networks: what each loss is handed, on which rows, in which phase, and what is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError, ModelError
from gankd.losses.distillation import LossModule, loss
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training import distill as loop
from gankd.training.distill import distill
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.losses import all_losses
from gankd.training.objective import Objective, term, term_of
from gankd.training.wiring import Connection, connect
from gankd.virtual import VirtualConfig, VirtualTeacher

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CLASSES = Classification(num_classes=5)
AGES = Regression(low=20.0, high=60.0)
SEEN: list[dict[str, Any]] = []


def toy(task: Task, count: int = 24) -> LabelledImages:
    images = torch.randint(256, (count, 1, 16, 16), dtype=torch.uint8, generator=rng(0, "toy"))
    labels = task.sample_labels(count, torch.arange(5), "uniform", rng(0, "toy labels"))
    return LabelledImages(images, labels, task)


def network(task: Task, name: str, seed: int = 0) -> ImageModel:
    net = build_net(name, in_channels=1, image_size=16, num_outputs=task.head_size, seed=seed)
    return ImageModel.for_data(net, toy(task))


def connected(text: str | Objective, task: Task = CLASSES, **settings: Any) -> Connection:
    teacher = settings.pop("teacher", network(task, "resnet8", 1).eval())
    return connect(network(task, "cnn8"), Lesson(text, teacher), toy(task), DistillConfig(**settings), PLAIN, 0)


class Steps(Stage):
    """Some updates of a training, with the terms that each reports."""

    def __init__(self, *wanted: int) -> None:
        super().__init__("student")
        self.wanted, self.terms = wanted, list[dict[str, Tensor]]()

    def steps(self, total: int, **state: Any) -> Iterator[int]:
        yield from self.wanted

    def report(self, images: int, **terms: Tensor) -> None:
        assert images == 6
        self.terms.append(terms)


def trained(text: str | Objective, task: Task, stage: Stage, **config: Any) -> ImageModel:
    given: dict[str, Any] = {"updates": 10, "batch_size": 6, "augment": ("shift",), "lr": 1e-3} | config
    virtual = VirtualTeacher.untrained(task, VirtualConfig())
    teacher = network(task, "resnet8", 1)
    lesson = Lesson(text, teacher, virtual, lambda name, seed: network(task, name or "cnn8", seed))
    return distill(
        network(task, "cnn8"), toy(task), toy(task), DistillConfig(**given), PLAIN, 0, lesson=lesson, stage=stage
    )


CASES = [
    (str(term_of(found)), task)
    for found in all_losses().values()
    for task in (CLASSES, AGES)
    if task.kind in found.tasks and not found.needs
]


@pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{name}-{task.kind}" for name, task in CASES])
def test_every_loss_trains_the_student_and_its_own_parts(
    name: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks of different families; gradients reach whatever is to be trained, and are finite."""
    made: list[Connection] = []

    def spy(*args: Any) -> Connection:
        made.append(connect(*args))
        return made[-1]

    monkeypatch.setattr(loop, "connect", spy)
    term = Objective.parse(name).terms[0]
    first = dict(term.settings).get("first", term.loss.settings.get("first", 0))
    stage = Steps(0) if first else Steps(0, 5)  # an opening phase, if there is one
    student = trained(name if term.loss.is_label_loss else f"0*Label + {name}", task, stage)
    assert all(terms["loss"].isfinite() for terms in stage.terms)
    own = dict(made[0].criterion.named_parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own.values() if p.requires_grad), name
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    assert set(student.state_dict()) == set(network(task, "cnn8").state_dict())  # adapters are not exported


@loss("Watch")
def watch(
    student_outputs: Tensor,
    teacher_outputs: Tensor,
    student_embedding: Tensor,
    student_features: list[Tensor],
    teacher_features: list[Tensor],
    rotated_teacher_outputs: Tensor,
    labels: Tensor,
    targets: Tensor,
    images: Tensor,
    index: Tensor,
    progress: float,
    generator: torch.Generator,
) -> Tensor:
    SEEN.append(dict(locals()))
    return student_outputs.sum() * 0


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    SEEN.clear()


@pytest.mark.parametrize("task", [CLASSES, AGES])
def test_a_loss_sees_what_the_names_promise(task: Task) -> None:
    data, teacher, student = toy(task), network(task, "resnet8", 1), network(task, "cnn8")
    config = DistillConfig(updates=4, batch_size=6, lr=0.0 + 1e-9)
    distill(student, data, data, config, PLAIN, 0, lesson=Lesson(term(watch), teacher), stage=Steps(2))
    _, seen = SEEN  # the first is the dry run
    shown = data.images[seen["index"]]
    assert torch.equal(seen["images"], shown.float() / 255)
    labels = data.labels[seen["index"]]
    if isinstance(task, Regression):
        assert torch.equal(seen["labels"], (labels - 20) / 40)
        assert torch.equal(seen["targets"], seen["labels"])
    else:
        assert torch.equal(seen["labels"], labels)
        assert torch.equal(seen["targets"].argmax(1), labels)
        assert torch.equal(seen["targets"].sum(1), torch.ones(6))
    assert seen["progress"] == 0.5
    with torch.no_grad():
        expected = task.on_unit_scale(teacher.eval()(shown))
        turned = torch.cat([torch.rot90(shown, turns, (2, 3)) for turns in (1, 2, 3)])
        expected_turned = task.on_unit_scale(teacher(turned))
    torch.testing.assert_close(seen["teacher_outputs"], expected)
    torch.testing.assert_close(seen["rotated_teacher_outputs"], expected_turned)
    for own, other in zip(seen["student_features"], seen["teacher_features"], strict=True):
        assert own.shape[2:] == other.shape[2:]  # both nets halve 16 pixels twice
        assert own.requires_grad
        assert not other.requires_grad


def test_teacher_losses_see_the_taught_rows_alone() -> None:
    made = connected(term(watch))
    inputs: dict[str, Any] = {
        name: torch.arange(6.0)[:, None].repeat(1, 2)
        for name in ("student_outputs", "teacher_outputs", "student_embedding", "labels", "targets", "images", "index")
    }
    inputs |= {"student_features": [inputs["labels"]], "teacher_features": [inputs["labels"]], "progress": 0.0}
    inputs["rotated_teacher_outputs"] = torch.cat([10 * turn + torch.arange(6.0) for turn in (1, 2, 3)])
    inputs["label_loss"] = torch.arange(6.0)
    SEEN.clear()
    _, terms = made.criterion(inputs, step=0, taught=slice(4, None))
    assert terms["Label"] == 2.5  # of all rows
    assert SEEN[0]["labels"][:, 0].tolist() == [4, 5]
    assert SEEN[0]["teacher_features"][0][:, 0].tolist() == [4, 5]
    assert SEEN[0]["rotated_teacher_outputs"].tolist() == [14, 15, 24, 25, 34, 35]


@loss("Opening")
class Opening(LossModule):
    """Has the first quarter for itself."""

    def __init__(self, *, first: float = 0.25) -> None:
        super().__init__()
        self.first = first

    def forward(self, student_outputs: Tensor) -> Tensor:
        return student_outputs.square().sum() * 0 + 7


def test_a_loss_that_comes_first_is_alone_at_first_and_gone_afterwards() -> None:
    stage = Steps(*range(8))
    trained(term(Opening) + term("LS"), CLASSES, stage, updates=8)
    names = [sorted(terms) for terms in stage.terms]
    assert names == [["Opening", "loss"]] * 2 + [["LS", "loss"]] * 6


@loss("Named")
class Named(nn.Module):
    """Has layers of the names that a `LossModule` uses, and offers nothing."""

    def __init__(self, student_embedding: Tensor, teacher_embedding: Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(student_embedding.shape[1], 8)
        self.pretraining = nn.Linear(8, teacher_embedding.shape[1])
        self.pretrained = nn.Linear(teacher_embedding.shape[1], teacher_embedding.shape[1])
        self.pretrain = nn.Parameter(torch.ones(1))
        self.problems = nn.ParameterList([torch.zeros(teacher_embedding.shape[1])])
        self.peers = nn.ModuleList([nn.Identity()])

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        own = self.pretraining(self.first(student_embedding)) * self.pretrain + self.problems[0]
        return (self.peers[0](own) - self.pretrained(teacher_embedding)).square().mean(1)


def test_a_loss_of_your_own_may_call_its_layers_first_pretraining_problems_and_peers() -> None:
    stage = Steps(0, 5, 9)
    trained(term(Named), CLASSES, stage)
    assert [sorted(terms) for terms in stage.terms] == [["Label", "Named", "loss"]] * 3


@loss("Offering")
class Offering(LossModule):
    """Trains a layer on the teacher first, and has something to tell."""

    def __init__(self, teacher_embedding: Tensor) -> None:
        super().__init__()
        self.pretrain = 0.5
        self.pretrained = nn.Linear(teacher_embedding.shape[1], 1)

    def pretraining(self, teacher_embedding: Tensor) -> Tensor:
        return (self.pretrained(teacher_embedding) - 1).square().mean()

    def forward(self, student_outputs: Tensor, teacher_embedding: Tensor) -> Tensor:
        assert not self.pretrained.training
        self.problems["odd"] = "something is odd"
        return (student_outputs.mean(1) - self.pretrained(teacher_embedding)[:, 0]).square()


def test_what_a_loss_offers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    steps = Stage.steps

    def counted(stage: Stage, total: int, **state: Any) -> Iterator[int]:
        lengths.append(total)
        return steps(stage, total, **state)

    monkeypatch.setattr(Stage, "steps", counted)
    stage = Stage("student")
    trained(term(Offering), CLASSES, stage)
    assert lengths == [5, 10]  # half as many updates beforehand
    assert [line for line in stage.history if "problem" in line] == [{"step": 1, "problem": "something is odd"}]  # once


def test_weights_multiply_the_mean_of_each_term() -> None:
    made = connected("0.5*Label + 3*KD(T=1)")
    logits = torch.tensor([[1.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0]])
    inputs = {
        "label_loss": torch.tensor([1.0, 3.0]),
        "student_outputs": logits,
        "teacher_outputs": logits.flip(0),
        "task": CLASSES,
        "progress": 0.0,
    }
    total, terms = made.criterion(inputs, step=0)
    p, q = logits.flip(0).softmax(1), logits.softmax(1)
    kd = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(terms["KD"], kd)
    torch.testing.assert_close(total, 0.5 * torch.tensor(2.0) + 3 * kd)


def test_parts_of_a_loss_depend_on_the_seed_alone() -> None:
    def parts(text: str) -> list[Tensor]:
        torch.rand(3)  # whatever was drawn before must not matter
        return [p for name, p in connected(text).criterion.named_parameters() if "FitNet" in name]

    first, again, beside = parts("FitNet"), parts("FitNet"), parts("CRD + FitNet")
    assert first
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, beside, strict=True))


def test_the_dry_run_leaves_both_networks_as_they_were() -> None:
    student, teacher = network(CLASSES, "cnn8").train(), network(CLASSES, "resnet8", 1).eval()
    before = [value.clone() for net in (student, teacher) for value in net.state_dict().values()]
    state = torch.get_rng_state()
    data = toy(CLASSES)
    connect(student, Lesson("FitNet + SSKD + CRD", teacher), data, DistillConfig(), PLAIN, 0).close()
    after = [value for net in (student, teacher) for value in net.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert not teacher.training
    hooks = [hook for net in (student, teacher) for m in net.modules() for hook in m._forward_hooks.values()]
    assert not hooks


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("KD", {"teacher": None}, "reads a teacher, and none is given"),
        ("DML", {}, "loss DML reads new_.*, which is not given here"),
        ("AT", {"student_taps": ("features.3", "features.6"), "teacher_taps": ("blocks.2",)}, "names 2 maps and tea"),
        ("AT", {"student_taps": ("features.33",)}, "features.33"),
        ("AT", {"student_taps": ("features.3", "features.3")}, "features.3"),
        ("L1", {}, "loss L1 is for regression and the labels are for classification"),
    ],
)
def test_what_cannot_be_wired_is_refused_in_one_line(text: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=message) as caught:
        connected(text, **settings)
    assert "\n" not in str(caught.value)


def test_a_network_without_maps_has_losses_that_need_none() -> None:
    flat = ImageModel.for_data(Flat(), toy(CLASSES))
    with pytest.raises(ModelError, match="has no feature maps that can be paired with the other network's; name"):
        connected("AT", teacher=flat)
    made = connected("KD + RKD + CRD", teacher=flat)
    made.close()


@pytest.mark.parametrize("text", ["KD", "AT + CRD + SSKD"])
def test_compiled_networks_give_the_same_student(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the eager backend: the graph is captured, taps and all, and run as it is."""
    compiled: list[nn.Module] = []

    def capture(net: nn.Module) -> Any:
        compiled.append(net)
        return original(net, backend="eager", fullgraph=True)

    original = torch.compile

    def weights(**config: Any) -> list[Tensor]:
        return list(trained(text, CLASSES, Steps(0, 1), **config).state_dict().values())

    plain = weights()
    monkeypatch.setattr(torch, "compile", capture)
    assert all(torch.equal(a, b) for a, b in zip(weights(compile=True), plain, strict=True))
    assert len(compiled) == 2  # student and teacher


def test_what_cannot_be_compiled_is_declined_with_a_reason() -> None:
    with pytest.raises(
        ConfigError, match="compile is not possible with this loss: maps before their ReLU are found by"
    ):
        connected("OFD", compile=True)


@loss("Raises")
def raises(student_outputs: Tensor) -> Tensor:
    raise ZeroDivisionError("by nought")


@loss("NoTensor")
def no_tensor(student_outputs: Tensor) -> float:
    return 1.0


@loss("WrongShape")
def wrong_shape(student_outputs: Tensor) -> Tensor:
    return student_outputs[:3]


@loss("Detached")
def detached(student_outputs: Tensor) -> Tensor:
    return student_outputs.detach().square().sum()


@loss("Nan")
def nan(student_outputs: Tensor) -> Tensor:
    return student_outputs.sum() * float("nan")


@loss("Unbuildable")
class Unbuildable(nn.Module):
    def __init__(self, student_embedding: Tensor) -> None:
        raise KeyError("width")

    def forward(self, student_outputs: Tensor) -> Tensor:
        return student_outputs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (raises, r"loss \S*:Raises fails \(test_criterion.py, line \d+\): ZeroDivisionError by nought"),
        (no_tensor, r"must give one value, or one per row \(4,\), got float"),
        (wrong_shape, r"must give one value, or one per row \(4,\), got \(3, 5\)"),
        (detached, "does not depend on the student; does it detach what it reads"),
        (nan, "is nan or inf for the first 4 images"),
        (Unbuildable, r"loss \S*:Unbuildable fails \(test_criterion.py, line \d+\): KeyError 'width'"),
    ],
)
def test_what_is_wrong_with_a_loss_of_your_own_is_said_before_training(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        connected(term(wrong))
    assert "\n" not in str(caught.value)
