"""Peers in one training: the formula against loops, the gate, outputs that feed each generator, checkpoints."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import ConfigError
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification
from gankd.virtual.losses.own_knowledge import repeated
from gankd.virtual.losses.peer_vkd import PeerVKD

CLASSES = Classification(num_classes=3)
LABELS = torch.tensor([0, 1, 2, 1, 0])


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)
        self.linear.weight.data.normal_(generator=rng(seed, "peer"))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def no_network(name: str, seed: int) -> nn.Module:
    raise AssertionError(f"asked for {name}")


def built(peers: int = 2, **settings: object) -> PeerVKD:
    torch.manual_seed(0)
    return PeerVKD(torch.zeros(100, dtype=torch.int64), CLASSES, Net, no_network, peers=peers, **settings)  # type: ignore[arg-type]


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    targets = torch.rand(5, 3, generator=rng(seed, "targets")).softmax(1)
    images = torch.rand(5, 3, 2, 2, generator=rng(seed, "images"))
    return torch.randn(5, 3, generator=rng(seed, "student")), LABELS, targets, images


def with_means(loss: PeerVKD) -> list[list[list[float]]]:
    """Loss with known samples: those of generators that have not begun are their class means."""
    means = torch.rand(len(loss.knowledge), 3, 3, generator=rng(0, "means")).softmax(2)
    for own, rows in zip(loss._own, means, strict=True):
        own.gan.set_means(rows, torch.ones(3))
    return means.tolist()


@pytest.mark.parametrize(("progress", "ramp"), [(0.0, math.exp(-5)), (0.125, math.exp(-1.25)), (0.7, 1.0)])
@pytest.mark.parametrize("peers", [1, 2])
def test_it_follows_its_formula(peers: int, progress: float, ramp: float) -> None:
    """Red for a learner among its own peers, a sum instead of the mean, a label loss of the student, no T^2."""
    loss = built(peers).eval()
    means = with_means(loss)
    student, labels, targets, images = batch(1)
    outputs = [student.tolist(), *(peer(images).tolist() for peer in loss.peers)]

    def log_softmax(row: list[float], temperature: float) -> list[float]:
        norm = math.log(sum(math.exp(x / temperature) for x in row))
        return [x / temperature - norm for x in row]

    expected = []
    for i, label in enumerate(labels.tolist()):
        value = 0.0
        for j, learner in enumerate(outputs):
            if j:
                value -= sum(t * ln for t, ln in zip(targets[i].tolist(), log_softmax(learner[i], 1), strict=True))
            log_p = log_softmax(learner[i], 4)
            others = [means[k][label] for k in range(len(outputs)) if k != j]
            kls = [sum(a * (math.log(a) - b) for a, b in zip(q, log_p, strict=True)) for q in others]
            value += ramp * 16 * sum(kls) / len(kls)
        expected.append(value)
    found = loss(student, labels, targets, images, progress, rng(0, "draw"))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_weak_peer_does_not_teach_but_learns() -> None:
    """Red when learner and teacher change places in the gate."""
    student, labels, targets, images = batch(2)
    accuracies = (0.6, 0.59, 0.3)  # the student, an equal, a weak one

    def by_gate(gate: bool) -> tuple[Tensor, list[Tensor]]:
        loss = built(gate=gate).eval()
        with_means(loss)
        for own, accuracy in zip(loss._own, accuracies, strict=True):
            own.hits.fill_(accuracy)
            own.weight.fill_(1)
        loss._own[2].gan.set_means(torch.eye(3)[[1, 2, 0]], torch.ones(3))  # its draws are all wrong
        logits = student.clone().requires_grad_()
        loss(logits, labels, targets, images, 0.5, rng(0, "draw")).sum().backward()
        assert logits.grad is not None
        return logits.grad, [peer.linear.bias.grad for peer in loss.peers]  # type: ignore[union-attr, misc]

    gated, with_all = by_gate(True), by_gate(False)
    loss = built(1).eval()
    means = torch.tensor(with_means(built().eval()))
    loss._own[1].gan.set_means(means[1], torch.ones(3))
    logits = student.clone().requires_grad_()
    loss(logits, labels, targets, images, 0.5, rng(0, "draw")).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(gated[0], logits.grad)  # the student learns only from its equal
    assert (with_all[0] - gated[0]).abs().max() > 0.1
    torch.testing.assert_close(gated[1][1], with_all[1][1])  # the weak one hears both others, with and without


def test_each_generator_learns_from_its_own_network_and_nothing_flows_back() -> None:
    loss = built()
    student, labels, targets, images = batch(3)
    student.requires_grad_()
    value = loss(student, labels, targets, images, 0.5, rng(0, "draw"))
    for own, logits in zip(loss._own, [student, *(peer(images) for peer in loss.peers)], strict=True):
        own.gan._learn()  # what waits for the updates to come
        rows = repeated(logits.argmax(1) == labels)
        for label in labels[rows].unique():
            mean = (logits[rows[labels[rows] == label]] / 4).softmax(1).mean(0).detach()
            torch.testing.assert_close(own.gan.means()[label], mean)
    value.sum().backward()
    assert all(parameter.grad is None for own in loss._own for parameter in own.parameters())
    assert all(parameter.grad is not None for parameter in loss.peers.parameters())


def run(loss: PeerVKD, steps: range) -> list[Tensor]:
    optimizer = torch.optim.SGD([p for p in loss.parameters() if p.requires_grad], 0.05)
    values = []
    for step in steps:
        optimizer.zero_grad()
        value = loss(*batch(step), step / 400, rng(step, "draw"))
        value.mean().backward()
        optimizer.step()
        values.append(value.detach())
    return values


def test_a_resumed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    expected = run(built(), range(150))
    part = built()
    run(part, range(120))
    assert all(own.gan.ready for own in part._own)
    save_state(tmp_path / "x.safetensors", part.state_dict())
    resumed = built()
    resumed.load_state_dict(load_state(tmp_path / "x.safetensors"))
    for ours, theirs in zip(run(resumed, range(120, 150)), expected[120:], strict=True):
        assert torch.equal(ours, theirs)


def test_peers_may_be_of_other_networks_and_differ_from_one_another() -> None:
    asked: list[tuple[str, int]] = []

    def network(name: str, seed: int) -> nn.Module:
        asked.append((name, seed))
        return Net(seed)

    labels = torch.zeros(8, dtype=torch.int64)
    for _ in range(2):
        torch.manual_seed(5)
        loss = PeerVKD(labels, CLASSES, Net, network, networks="cnn8, cnn16,cnn8")
    assert [name for name, _ in asked[:3]] == ["cnn8", "cnn16", "cnn8"]
    assert asked[:3] == asked[3:]
    assert len({seed for _, seed in asked}) == 3
    assert (len(loss.peers), len(loss.knowledge)) == (3, 4)
    first, second = (own.gan.generator.last.weight for own in loss._own[:2])
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peers": 0}, "PeerVKD: peers must be at least 1, got 0"),
        ({"networks": "cnn8,,"}, "PeerVKD: networks must be names separated by commas, got 'cnn8,,'"),
        ({"T": -1.0}, r"PeerVKD: T must lie in \(0, 100\], got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(**settings)  # type: ignore[arg-type]
