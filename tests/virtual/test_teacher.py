"""The virtual teacher as a file and as a teacher: re-tempering, round trips, refusals."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gankd.errors import CheckpointError, DataError
from gankd.seeds import rng
from gankd.storage import save_state
from gankd.tasks import Classification, Regression, Task
from gankd.virtual.gan import KnowledgeGan, VirtualConfig
from gankd.virtual.teacher import Bank, VirtualTeacher

DIGITS = Classification(num_classes=4, class_names=("one", "two", "three", "four"))
AGES = Regression(low=1, high=61, unit="years")
TASKS = pytest.mark.parametrize("task", [DIGITS, AGES], ids=["classes", "values"])


def trained(task: Task, steps: int = 3, bins: int = 50) -> KnowledgeGan:
    gan = KnowledgeGan(task, VirtualConfig(bins=bins), 0)
    for step in range(steps):
        gan.step(*some(gan, 16, step))
    return gan


def some(gan: KnowledgeGan, count: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities and labels."""
    random = rng(step, "outputs")
    logits = 2 * torch.randn(count, gan.num_outputs, generator=random)
    if gan.task.kind == "classification":
        return logits.softmax(1), torch.randint(gan.task.num_groups, (count,), generator=random)
    return logits.softmax(1), torch.rand(count, generator=random)


@pytest.mark.parametrize("other", [1.0, 2.0, 4.0, 10.0])
def test_draws_at_another_temperature_are_the_teachers(other: float) -> None:
    """softmax(v / T') = normalise(softmax(v / T)^(T / T')), so that one generator serves every temperature."""
    gan = KnowledgeGan(DIGITS, VirtualConfig(temperature=3.0), 0)
    logits = 5 * torch.randn(4, 4, generator=rng(0, "true logits"))
    with torch.no_grad():
        for network in (gan.generator, gan.ema):
            network.last.weight.zero_()
            assert network.table is not None
            network.table.rows.copy_(logits / 3)  # a generator that knows the teacher's logits exactly
    virtual = VirtualTeacher.of(gan)
    draw = virtual.draw(torch.arange(4), torch.zeros(4, virtual.generator.z_dim))
    torch.testing.assert_close((draw / other).softmax(1), (logits / other).softmax(1))
    power = gan.draw(torch.arange(4), rng(0)).softmax(1) ** (3 / other)
    torch.testing.assert_close((draw / other).softmax(1), power / power.sum(1, keepdim=True))


@TASKS
def test_it_is_a_frozen_copy_of_the_averaged_generator(task: Task) -> None:
    gan = trained(task)
    virtual = VirtualTeacher.of(gan, made="here")
    _, labels = some(gan, 9)
    z = torch.randn(9, gan.ema.z_dim, generator=rng(7))
    before = virtual.draw(labels, z)
    torch.testing.assert_close(before, gan.temperature * gan.draw(labels, rng(7)))
    means = virtual.means.clone()
    gan.step(*some(gan, 16))
    gan.set_means(torch.rand_like(gan.mean_sum), torch.ones_like(gan.mean_weight))
    assert torch.equal(virtual.draw(labels, z), before)
    assert torch.equal(virtual.means, means)
    assert not any(parameter.requires_grad for parameter in virtual.generator.parameters())
    assert virtual.facts == {"made": "here"}


@TASKS
def test_file_round_trip(task: Task, tmp_path: Path) -> None:
    gan = trained(task, bins=12)
    virtual = VirtualTeacher.of(gan, teacher="cnn8", steps=3)
    virtual.save(tmp_path / "virtual.safetensors")
    again = VirtualTeacher.load(tmp_path / "virtual.safetensors")
    assert (again.task, again.config, again.facts) == (task, virtual.config, virtual.facts)
    assert (again.temperature, again.num_outputs) == (virtual.temperature, virtual.num_outputs)
    assert again.bank is None
    _, labels = some(gan, 9)
    z = torch.randn(9, gan.ema.z_dim, generator=rng(7))
    # numbers are stored in float16
    torch.testing.assert_close(again.draw(labels, z), virtual.draw(labels, z), atol=2e-2, rtol=5e-3)
    torch.testing.assert_close(again.means, virtual.means, atol=1e-6, rtol=1e-3)
    again.save(tmp_path / "again.safetensors")
    third = VirtualTeacher.load(tmp_path / "again.safetensors")
    assert torch.equal(third.draw(labels, z), again.draw(labels, z))  # nothing is lost a second time


def test_half_a_megabyte_at_a_hundred_classes(tmp_path: Path) -> None:
    virtual = VirtualTeacher.of(trained(Classification(num_classes=100), steps=0))
    path = tmp_path / "virtual.safetensors"
    virtual.save(path)
    assert path.stat().st_size < 500_000
    assert path.stat().st_size > 2 * virtual.num_parameters


@TASKS
def test_bank_round_trip(task: Task, tmp_path: Path) -> None:
    gan = trained(task)
    probs, labels = some(gan, 9)
    VirtualTeacher.of(gan).save(tmp_path / "virtual.safetensors")
    Bank(probs.log(), labels).save(tmp_path / "bank.safetensors")
    bank = VirtualTeacher.load(tmp_path / "virtual.safetensors", tmp_path / "bank.safetensors").bank
    assert bank is not None
    assert torch.equal(bank.labels, labels)
    torch.testing.assert_close(bank.logits, probs.log(), atol=1e-2, rtol=1e-3)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    virtual = VirtualTeacher.of(trained(DIGITS, steps=0))
    bank = tmp_path / "bank.safetensors"
    Bank(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)).save(bank)
    with pytest.raises(CheckpointError, match="holds no virtual teacher"):
        VirtualTeacher.load(bank)
    own = tmp_path / "virtual.safetensors"
    virtual.save(own)
    with pytest.raises(CheckpointError, match="holds no stored outputs"):
        VirtualTeacher.load(own, own)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        VirtualTeacher.load(tmp_path / "missing.safetensors")
    own.write_bytes(own.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        VirtualTeacher.load(own)
    save_state(own, {"kind": "virtual teacher", "config": {}, "task": {"kind": "classification", "num_classes": 3}})
    with pytest.raises(CheckpointError, match="not a complete virtual teacher"):
        VirtualTeacher.load(own)


def test_other_classes_or_another_order_are_refused() -> None:
    virtual = VirtualTeacher.of(trained(DIGITS, steps=0))
    virtual.check_task(DIGITS, "v")
    virtual.check_task(Classification(num_classes=4), "v")  # nameless classes cannot be told apart
    swapped = Classification(num_classes=4, class_names=("one", "three", "two", "four"))
    with pytest.raises(DataError, match="v: class 1 is 'two' for the virtual teacher and 'three' .* same order .F12"):
        virtual.check_task(swapped, "v")
    with pytest.raises(DataError, match="made for 4 classes, the data are 5 classes"):
        virtual.check_task(Classification(num_classes=5), "v")
    with pytest.raises(DataError, match="made for 4 classes, the data are values in .1, 61. years"):
        virtual.check_task(AGES, "v")


def test_another_range_of_values_is_refused() -> None:
    virtual = VirtualTeacher.of(trained(AGES, steps=0))
    virtual.check_task(AGES, "v")
    with pytest.raises(DataError, match="values in .1, 61. years, the data are values in .0, 61. years"):
        virtual.check_task(Regression(low=0, high=61, unit="years"), "v")
