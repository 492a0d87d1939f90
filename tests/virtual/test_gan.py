"""Training of the generator: an unbiased anchor, no effect on the teacher, resumption bit for bit, and learning."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification, Regression, Task
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, label_means, mean_anchor
from gankd.virtual.measurement import measure

CLASSES = Classification(num_classes=6)
VALUES = Regression(low=0, high=1)
TASKS = pytest.mark.parametrize("task", [CLASSES, VALUES], ids=["classes", "values"])
SMALL = VirtualConfig(every=3, warmup=4, bins=8, z_dim=4, width=16)


def outputs(task: Task, step: int, count: int = 10) -> tuple[Tensor, Tensor]:
    """Logits and labels of one training step."""
    random = rng(step, "step")
    width = task.head_size if task.kind == "classification" else SMALL.bins
    logits = 2 * torch.randn(count, width, generator=random)
    if task.kind == "classification":
        return logits, torch.randint(task.num_groups, (count,), generator=random)
    return logits, torch.rand(count, generator=random)


# --- the anchor ---------------------------------------------------------------------------------------------


def test_anchor_is_the_squared_distance_of_the_mean_and_no_spread() -> None:
    """Mean over all pairs of samples, the exact expectation under their empirical law."""
    draws = (2 * torch.randn(40, 5, generator=rng(0, "q"), dtype=torch.float64)).softmax(1).requires_grad_()
    mean = torch.full((1600, 5), 0.2, dtype=torch.float64)
    first, second = draws.repeat_interleave(40, 0), draws.repeat(40, 1)
    anchor = mean_anchor(first, second, mean)
    closed = 5 * (draws.mean(0) - 0.2).square().sum()
    torch.testing.assert_close(anchor, closed)
    slopes = [torch.autograd.grad(loss, draws, retain_graph=True)[0] for loss in (anchor, closed)]
    torch.testing.assert_close(slopes[0], slopes[1])
    # the square of one draw would also count the variance, and shrink it
    naive = mean_anchor(first, first, mean)
    torch.testing.assert_close(naive - anchor, 5 * draws.var(0, correction=0).sum())
    assert naive > 3 * anchor


def test_anchor_of_a_generator_by_monte_carlo() -> None:
    gan = KnowledgeGan(CLASSES, VirtualConfig(), 0)
    gan.ema.last.weight.mul_(10)
    labels = torch.zeros(40_000, dtype=torch.int64)
    first, second = (gan.draw(labels, rng(n)).softmax(1) for n in (1, 2))
    target = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.2, 0.1]).expand(40_000, -1)
    expected = 6 * (torch.cat([first, second]).mean(0) - target[0]).square().sum()
    torch.testing.assert_close(mean_anchor(first, second, target), expected, rtol=2e-2, atol=0)
    assert mean_anchor(first, first, target) > 1.4 * expected


# --- means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
def test_means_of_classes_against_loops(every: int) -> None:
    """Outputs of `every` updates count at once, with the weight of that many."""
    gan = KnowledgeGan(CLASSES, VirtualConfig(warmup=1000, temperature=2.0, every=every), 0)
    assert torch.equal(gan.means(), torch.full((6, 6), 1 / 6))
    running, total = torch.zeros(6, 6), torch.zeros(6)
    found: list[list[torch.Tensor]] = [[] for _ in range(6)]
    for step in range(6):
        logits, labels = outputs(CLASSES, step)
        keep = labels != 5 if step % 2 else None
        gan.observe(logits, labels, keep)
        for row, label in zip(logits, labels.tolist(), strict=True):
            if not (keep is not None and label == 5):
                found[label].append((row / 2).softmax(0))
        if step % every == every - 1:
            for label in range(6):
                if found[label]:
                    share = 1 - 0.98**every
                    running[label] += share * (torch.stack(found[label]).mean(0) - running[label])
                    total[label] += share * (1 - total[label])
            found = [[] for _ in range(6)]
    torch.testing.assert_close(gan.means(), running / total[:, None])


def test_means_of_values_are_a_kernel_regression() -> None:
    logits, labels = outputs(VALUES, 0, 50)
    means, _ = label_means(logits.softmax(1), labels, 256)
    grid = 200 / 255
    kernel = torch.tensor([float(torch.tensor(-0.5 * ((y - grid) / 0.02) ** 2).exp()) for y in labels.tolist()])
    torch.testing.assert_close(
        means[200], (kernel[:, None] * logits.softmax(1)).sum(0) / kernel.sum(), rtol=1e-4, atol=0
    )


def test_exact_means_replace_running_ones_and_rows_without_output_are_uniform() -> None:
    gan = KnowledgeGan(CLASSES, SMALL, 0)
    logits, _ = outputs(CLASSES, 0)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 4, 4, 4])
    gan.set_means(*label_means(logits.softmax(1), labels, 6))
    torch.testing.assert_close(gan.means()[1], logits.softmax(1)[2:5].mean(0))
    assert torch.equal(gan.means()[3], torch.full((6,), 1 / 6))


# --- when it learns, and from what --------------------------------------------------------------------------


def test_observe_gathers_every_few_steps_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = KnowledgeGan(CLASSES, SMALL, 0)
    steps: list[tuple[Tensor, Tensor]] = []
    started: list[int] = []
    monkeypatch.setattr(gan, "step", lambda probs, labels: steps.append((probs, labels)))
    monkeypatch.setattr(gan, "start", lambda: started.append(gan.observed))
    expected: list[tuple[Tensor, Tensor]] = []
    waiting: list[tuple[Tensor, Tensor]] = []
    for step in range(1, 15):
        logits, labels = outputs(CLASSES, step)
        keep = labels % 2 == 0 if step % 3 == 0 else None
        gan.observe(logits, labels, keep)
        if step > SMALL.warmup:
            chosen = slice(None) if keep is None else keep
            waiting.append(((logits / 4).softmax(1)[chosen], labels[chosen]))
        if len(waiting) == SMALL.every:
            expected.append((torch.cat([p for p, _ in waiting]), torch.cat([y for _, y in waiting])))
            waiting = []
    assert started == [4]
    assert len(steps) == len(expected) == 3
    for found, wanted in zip(steps, expected, strict=True):
        assert torch.equal(found[1], wanted[1])
        torch.testing.assert_close(found[0], wanted[0])


def test_nothing_kept_is_no_step() -> None:
    gan = KnowledgeGan(CLASSES, SMALL, 0)
    for step in range(10):
        logits, labels = outputs(CLASSES, step)
        gan.observe(logits, labels, torch.zeros(len(labels), dtype=torch.bool))
    assert gan.steps == 0
    assert not gan.ready


@TASKS
def test_no_gradient_and_no_random_number_leaves_it(task: Task) -> None:
    """T2: the network that it learns from gets no gradient, and global random numbers stay as they are."""
    teacher = nn.Linear(3, SMALL.num_outputs(task))
    state = torch.get_rng_state()
    gan = KnowledgeGan(task, SMALL, 0)
    images = torch.randn(10, 3, generator=rng(0, "images"))
    for step in range(1, 9):
        gan.observe(teacher(images), outputs(task, step)[1])
    assert gan.steps == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in gan.parameters())


@TASKS
def test_a_student_leaves_no_gradient_in_the_generator(task: Task) -> None:
    gan = KnowledgeGan(task, SMALL, 0)
    student = nn.Linear(3, gan.num_outputs)
    draw = gan.draw(outputs(task, 0)[1], rng(0))
    assert not draw.requires_grad
    F.cross_entropy(student(torch.ones(10, 3)), draw.softmax(1)).backward()
    assert student.weight.grad is not None
    assert all(parameter.grad is None for parameter in gan.parameters())


@TASKS
def test_autocast_around_it_changes_nothing(task: Task) -> None:
    """T10: training stays in float32."""
    losses = []
    for enabled in (False, True):
        gan = KnowledgeGan(task, SMALL, 0)
        for step in range(3):
            logits, labels = outputs(task, step, 64)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = gan.step(logits.softmax(1), labels)
        losses.append(torch.stack(list(loss.values())))
    assert torch.equal(losses[0], losses[1])


@TASKS
def test_resumed_it_ends_bit_for_bit_as_uninterrupted(task: Task, tmp_path: Path) -> None:
    """T7: networks, their average, optimisers, means, noise, and outputs collected for the next step."""
    whole, first = (KnowledgeGan(task, SMALL, 0) for _ in range(2))
    for step in range(1, 16):
        whole.observe(*outputs(task, step))
    for step in range(1, 9):  # after one step, with one output waiting
        first.observe(*outputs(task, step))
    for optimizer in first._optimizers.values():
        optimizer.param_groups[0]["lr"] = 1e-3
    save_state(tmp_path / "gan.safetensors", first.state_dict())
    torch.manual_seed(99)
    resumed = KnowledgeGan(task, SMALL, 0)
    resumed.load_state_dict(load_state(tmp_path / "gan.safetensors"))
    assert all(group["lr"] == 1e-3 for one in resumed._optimizers.values() for group in one.param_groups)
    for optimizer in resumed._optimizers.values():
        optimizer.param_groups[0]["lr"] = 2e-3
    for step in range(9, 16):
        resumed.observe(*outputs(task, step))
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours["_extra_state"]["steps"] == theirs["_extra_state"]["steps"] == 3
    assert len(ours["_extra_state"]["waiting"]) == len(theirs["_extra_state"]["waiting"]) == 2
    for name, value in ours.items():
        if name != "_extra_state":
            assert torch.equal(value, theirs[name]), name
    assert torch.equal(whole.draw(outputs(task, 0)[1], rng(5)), resumed.draw(outputs(task, 0)[1], rng(5)))
    # and their averages are not what they began as
    assert not torch.equal(whole.ema.last.weight, whole.generator.last.weight)


def test_average_of_weights_against_a_loop() -> None:
    gan = KnowledgeGan(CLASSES, SMALL, 0)
    average = gan.generator.last.weight.clone()
    for step in range(1, 6):
        logits, labels = outputs(CLASSES, step)
        gan.step(logits.softmax(1), labels)
        decay = min(0.999, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * gan.generator.last.weight
    torch.testing.assert_close(gan.ema.last.weight, average)


# --- it learns ----------------------------------------------------------------------------------------------


def gaussian_teacher(classes: int, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Softened posteriors of Gaussian classes in five super-classes, `count` for each."""
    random = rng(0, "toy")
    centres = 1.2 * torch.randn(5, 16, generator=random)[torch.arange(classes) % 5]
    centres = centres + 0.9 * torch.randn(classes, 16, generator=random)
    labels = torch.arange(classes).repeat_interleave(count)
    x = centres[labels] + torch.randn(len(labels), 16, generator=random)
    return (-torch.cdist(x, centres).square() / 2 / temperature).softmax(1), labels


def train(gan: KnowledgeGan, probs: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Samples for the labels."""
    gan.set_means(*label_means(probs, labels, len(gan.mean_weight)))
    gan.start()
    schedules = [LambdaLR(one, lambda step: min(1.0, 2 * (1 - step / steps))) for one in gan._optimizers.values()]
    for step in range(steps):
        index = torch.randint(len(labels), (256,), generator=rng(step, "batch"))
        gan.step(probs[index], labels[index])
        for schedule in schedules:
            schedule.step()
    return gan.draw(labels, rng(1)).softmax(1)


def test_the_learning_rates_fall_linearly_to_zero() -> None:
    gan = KnowledgeGan(CLASSES, SMALL, 0)
    schedules, base = gan.schedules(7), gan._base_lr
    rates = []
    for _ in range(7):
        rates.append([one.param_groups[0]["lr"] for one in gan._optimizers.values()])
        for one in gan._optimizers.values():
            one.step()
        for schedule in schedules.values():
            schedule.step()
    assert rates == [[base * (1 - step / 7)] * 2 for step in range(7)]  # bit for bit


@pytest.mark.slow
def test_twenty_gaussian_classes_pass_all_gates() -> None:
    """T8."""
    probs, labels = gaussian_teacher(20, 250, 4.0)
    gan = KnowledgeGan(Classification(num_classes=20), VirtualConfig(), 0)
    found = measure(probs, train(gan, probs, labels, 2000), labels)
    assert found.passed, found.table
    assert found.warnings == ()


@pytest.mark.slow
def test_a_distribution_over_values_whose_mean_and_spread_follow_the_label() -> None:
    labels = torch.rand(2000, generator=rng(0, "labels"))
    centres = (torch.arange(50) + 0.5) / 50
    read_out = labels + (0.01 + 0.07 * labels) * torch.randn(2000, generator=rng(0, "noise"))
    probs = (-0.5 * ((centres - read_out[:, None]) / 0.05).square()).softmax(1)
    gan = KnowledgeGan(VALUES, VirtualConfig(), 0)
    train(gan, probs, labels, 500)
    for label in (0.2, 0.4, 0.6, 0.8):
        drawn = gan.draw(torch.full((2000,), label), rng(2)).softmax(1) @ centres
        assert drawn.mean().item() == pytest.approx(label, abs=0.015)
        assert drawn.std().item() == pytest.approx(0.01 + 0.07 * label, rel=0.35)
