"""Generator and discriminator of output distributions: centred, by projection, interpolated between labels."""

import math

import pytest
import torch
from torch import Tensor, nn

from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.virtual.gan import VirtualConfig, build_generator
from gankd.virtual.networks import (
    GRID,
    DiscriminatorInput,
    KnowledgeDiscriminator,
    KnowledgeGenerator,
    LabelCode,
    LabelTable,
    read_table,
)

CLASSES = Classification(num_classes=7)
VALUES = Regression(low=0, high=1)


def labels_of(task: Task, count: int = 12) -> Tensor:
    random = rng(0, "labels")
    if task.kind == "classification":
        return torch.randint(task.num_groups, (count,), generator=random)
    return torch.rand(count, generator=random)


def probs_of(count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=rng(0, "probs")).softmax(1)


@pytest.mark.parametrize("mean_table", [True, False])
@pytest.mark.parametrize("task", [CLASSES, VALUES], ids=["classes", "values"])
def test_logits_are_centred_and_draws_sum_to_one(task: Task, mean_table: bool) -> None:
    generator = KnowledgeGenerator(task, 7, 5, 16, mean_table=mean_table)
    labels = labels_of(task)
    logits = generator(torch.randn(12, 5, generator=rng(0, "z")), labels)
    torch.testing.assert_close(logits.mean(1), torch.zeros(12), atol=1e-6, rtol=0)
    torch.testing.assert_close(logits.softmax(1).sum(1), torch.ones(12))
    assert logits.std(0).min() > 0  # neither noise nor label is lost


def test_table_of_values_is_linear_between_its_rows() -> None:
    rows = torch.tensor([[0.0, 5.0], [1.0, 3.0], [4.0, -1.0]])  # at labels 0, 1/2 and 1
    labels = torch.tensor([0.0, 0.125, 0.5, 0.75, 1.0, -0.3, 1.2])
    expected = [[0.0, 5.0], [0.25, 4.5], [1.0, 3.0], [2.5, 1.0], [4.0, -1.0], [0.0, 5.0], [4.0, -1.0]]
    torch.testing.assert_close(read_table(rows, labels), torch.tensor(expected))


def test_table_of_classes_is_looked_up_and_of_values_has_a_grid() -> None:
    table = LabelTable(CLASSES, 3)
    with torch.no_grad():
        table.rows.copy_(torch.arange(21.0).view(7, 3))
    assert torch.equal(table(torch.tensor([6, 0])), torch.tensor([[18.0, 19, 20], [0, 1, 2]]))
    assert LabelTable(VALUES, 3).rows.shape == (GRID, 3)


def test_code_of_a_value_reads_half_turns() -> None:
    """Fourier features of whole turns would be equal at 0 and at 1."""
    network = LabelCode(VALUES, 32)
    labels = torch.linspace(0, 1, 21)
    waves = [wave(math.pi * n * labels) for wave in (torch.sin, torch.cos) for n in range(1, 9)]
    torch.testing.assert_close(network(labels), network.code(torch.stack([labels, *waves], 1)))


def test_generator_begins_at_the_means() -> None:
    means = probs_of(7, 7)
    generator = KnowledgeGenerator(CLASSES, 7, 5, 16)
    before = generator.last.weight.clone()
    generator.start_at(means)
    torch.testing.assert_close(generator.last.weight, 0.1 * before)
    with torch.no_grad():
        generator.last.weight.zero_()
    labels = labels_of(CLASSES)
    torch.testing.assert_close(generator(torch.randn(12, 5), labels).softmax(1), means[labels])


def test_size_at_a_hundred_classes() -> None:
    generator = build_generator(Classification(num_classes=100), VirtualConfig())
    # 140,916 in the reference, with a bias of the last layer, which the table makes superfluous
    assert sum(parameter.numel() for parameter in generator.parameters()) == 140_916 - 100


@pytest.mark.parametrize("reads", ["sqrt", "p", "clr"])
def test_discriminator_is_a_projection(reads: DiscriminatorInput) -> None:
    network = KnowledgeDiscriminator(CLASSES, 7, 16, reads=reads, normed=False)
    probs, labels = probs_of(12, 7), labels_of(CLASSES)
    log = probs.log()
    x = {"sqrt": (7 * probs).sqrt(), "p": 7 * probs, "clr": log - log.mean(1, keepdim=True)}[reads]
    state = network.state_dict()
    for layer in ("first", "second"):
        x = x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        x = torch.where(x > 0, x, 0.2 * x)
    expected = (x * (state["psi.weight"] + state["code.code.weight"][labels])).sum(1) + state["psi.bias"]
    torch.testing.assert_close(network(probs, labels), expected)


@pytest.mark.parametrize("reads", ["sqrt", "p", "clr"])
def test_discriminator_bears_a_one_hot_output(reads: DiscriminatorInput) -> None:
    network = KnowledgeDiscriminator(CLASSES, 7, 16, reads=reads)
    probs = torch.eye(7).requires_grad_()
    scores = network(probs, torch.arange(7))
    (gradient,) = torch.autograd.grad(scores.sum(), probs)
    assert scores.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("task", [CLASSES, VALUES], ids=["classes", "values"])
def test_spectral_norm_holds_every_layer_to_one(task: Task) -> None:
    network = KnowledgeDiscriminator(task, 7, 16, normed=True)
    for _ in range(100):
        network(probs_of(12, 7), labels_of(task))  # each pass is one power iteration
    network.eval()
    weights = [network.first.weight, network.second.weight, network.psi.weight]
    weights += [layer.weight for layer in network.code.modules() if isinstance(layer, nn.Embedding | nn.Linear)]
    for weight in weights:
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-2)
