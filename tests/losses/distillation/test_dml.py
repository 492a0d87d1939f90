"""DML against loops, for one peer and for two, with classes and with values; who learns from whom."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import ConfigError
from gankd.losses.distillation.dml import DML
from gankd.seeds import rng


class Peer(nn.Module):
    def __init__(self, seed: int, num_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(12, num_outputs)
        self.linear.weight.data.normal_(generator=rng(seed, "peer"))

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.linear(images.flatten(1))
        return outputs if outputs.shape[1] > 1 else outputs[:, 0]


def no_network(name: str, seed: int) -> nn.Module:
    raise AssertionError(f"asked for {name}")


def student(num_outputs: int) -> Callable[[int], nn.Module]:
    return lambda seed: Peer(seed, num_outputs)


def batch(num_outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (5, num_outputs) if num_outputs > 1 else (5,)
    outputs = torch.randn(shape, generator=rng(0, "outputs"), dtype=torch.float64)
    targets = torch.rand(shape, generator=rng(0, "targets"), dtype=torch.float64)
    targets = targets / targets.sum(1, keepdim=True) if num_outputs > 1 else targets
    return outputs, targets, torch.rand(5, 3, 2, 2, generator=rng(0, "images"), dtype=torch.float64)


def plain(all_outputs: list[list[list[float]]], targets: list[list[float]]) -> list[float]:
    def log_softmax(logits: list[float]) -> list[float]:
        return [logit - math.log(sum(math.exp(other) for other in logits)) for logit in logits]

    total = []
    for i, target in enumerate(targets):
        logs = [log_softmax(outputs[i]) for outputs in all_outputs]
        value = -sum(p * ln for log in logs[1:] for p, ln in zip(target, log, strict=True))
        for p in range(len(logs)):
            others = [q for q in range(len(logs)) if q != p]
            pairs = [(a, b) for q in others for a, b in zip(logs[q], logs[p], strict=True)]
            value += sum(math.exp(a) * (a - b) for a, b in pairs) / len(others)
        total.append(value)
    return total


@pytest.mark.parametrize("peers", [1, 2])
def test_dml_of_classes_follows_its_formula(peers: int) -> None:
    # Red when the label loss leaves out a peer, and when the mean over the others becomes a sum (with two peers).
    outputs, targets, images = batch(4)
    dml = DML(student(4), no_network, peers=peers).double()
    everyone = [outputs.tolist(), *(peer(images).tolist() for peer in dml.peers)]
    expected = torch.tensor(plain(everyone, targets.tolist()), dtype=torch.float64)
    torch.testing.assert_close(dml(outputs, targets, images), expected)


def test_dml_of_values_by_hand() -> None:
    outputs, targets, images = batch(1)
    dml = DML(student(1), no_network, peers=2).double()
    a, b = (peer(images) for peer in dml.peers)
    label = (a - targets) ** 2 + (b - targets) ** 2
    # each of the three squared distances counts for both of its ends, and each end has two others
    expected = label + (outputs - a) ** 2 + (outputs - b) ** 2 + (a - b) ** 2
    torch.testing.assert_close(dml(outputs, targets, images), expected)


def test_only_the_label_loss_is_left_among_equals() -> None:
    _, targets, images = batch(3)
    dml = DML(lambda _: Peer(1, 3), no_network).double()
    outputs = dml.peers[0](images)
    torch.testing.assert_close(dml(outputs, targets, images), -(targets * outputs.log_softmax(1)).sum(1))


@pytest.mark.parametrize("num_outputs", [3, 1])
def test_gradients_and_who_learns_from_whom(num_outputs: int) -> None:
    # Red when the others are not held constant, and when learner and other change places in the divergence, which the
    # sum over all cannot show.
    outputs, targets, images = batch(num_outputs)
    outputs.requires_grad_()
    dml = DML(student(num_outputs), no_network).double()

    def towards_student(own: Tensor) -> Tensor:
        with torch.no_grad():
            peer = dml.peers[0](images)
        if num_outputs == 1:
            return (own - peer) ** 2
        return (peer.softmax(1) * (peer.log_softmax(1) - own.log_softmax(1))).sum(1)

    assert torch.autograd.gradcheck(towards_student, outputs)
    (expected,) = torch.autograd.grad(towards_student(outputs).sum(), outputs)
    (got,) = torch.autograd.grad(dml(outputs, targets, images).sum(), outputs)
    torch.testing.assert_close(got, expected)


def test_three_steps_train_the_peers() -> None:
    outputs, targets, images = (tensor.float() for tensor in batch(3))
    dml = DML(student(3), no_network, peers=2)
    optimizer = torch.optim.SGD(dml.parameters(), 0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = dml(outputs, targets, images).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


def test_peers_differ_come_back_under_the_same_seed_and_may_be_of_another_network() -> None:
    asked: list[tuple[str, int]] = []

    def network(name: str, seed: int) -> nn.Module:
        asked.append((name, seed))
        return nn.Identity()

    for _ in range(2):
        torch.manual_seed(5)
        DML(student(2), network, peers=2, network="cnn8")
    assert asked[:2] == asked[2:]
    assert [name for name, _ in asked] == ["cnn8"] * 4
    assert asked[0] != asked[1]


def test_no_peers_are_refused() -> None:
    with pytest.raises(ConfigError, match="DML: peers must be at least 1, got 0"):
        DML(student(2), no_network, peers=0)
