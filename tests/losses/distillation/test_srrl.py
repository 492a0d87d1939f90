"""SRRL against loops, its zero, its gradient, and that the teacher's layer stays as it was."""

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import ConfigError
from gankd.losses.distillation.srrl import SRRL
from gankd.seeds import rng


def embedding(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed, "embedding"), dtype=torch.float64)


@pytest.mark.parametrize("num_outputs", [4, 1])
def test_srrl_follows_its_formula_for_logits_and_values(num_outputs: int) -> None:
    # Red when the difference becomes a sum, when beta weighs the embeddings, and when means become sums.
    torch.manual_seed(0)
    student, teacher, head = embedding(0, 5, 2), embedding(1, 5, 3), nn.Linear(3, num_outputs).double()
    srrl = SRRL(student, teacher, head, alpha=2, beta=5).double()
    h, before, t = srrl.adapter(student), head(srrl.adapter(student)).tolist(), teacher.tolist()
    after = head(teacher).tolist()  # with its bias, which cancels
    expected = [
        2 * sum((a - b) ** 2 for a, b in zip(h.tolist()[i], t[i], strict=True)) / 3
        + 5 * sum((a - b) ** 2 for a, b in zip(before[i], after[i], strict=True)) / num_outputs
        for i in range(5)
    ]
    torch.testing.assert_close(srrl(student, teacher), torch.tensor(expected, dtype=torch.float64))


def test_one_image_by_hand() -> None:
    head = nn.Linear(2, 1)
    head.weight.data = torch.tensor([[1.0, -1.0]])
    srrl = SRRL(torch.zeros(1, 2), torch.zeros(1, 2), head).eval()  # batch norm leaves all as it is, nearly
    srrl.adapter[0].weight.data = torch.eye(2)
    loss = srrl(torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 3.0]]))  # difference 3, -2; in the output 5
    torch.testing.assert_close(loss, torch.tensor([(9 + 4) / 2 + 25.0]), rtol=1e-4, atol=0)


def test_srrl_is_zero_where_the_adapted_embedding_is_the_teachers() -> None:
    torch.manual_seed(1)
    student, head = embedding(2, 6, 3), nn.Linear(5, 4)
    srrl = SRRL(student, torch.zeros(4, 5), head).double()
    teacher = srrl.adapter(student).detach()
    torch.testing.assert_close(srrl(student, teacher), torch.zeros(6, dtype=torch.float64))


def test_one_row_is_normalised_by_running_statistics() -> None:
    """As where a batch has one generated image and the loss works on these."""
    student, teacher = embedding(3, 1, 2).requires_grad_(), embedding(4, 1, 3)
    srrl = SRRL(student, teacher, nn.Linear(3, 2)).double()
    norm = srrl.adapter[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    running = norm.running_mean.clone()
    value = srrl(student, teacher)
    value.backward()
    torch.testing.assert_close(value, srrl.eval()(student, teacher))
    torch.testing.assert_close(norm.running_mean, running)
    assert student.grad is not None
    assert (student.grad != 0).any()


def test_srrl_gradient() -> None:
    torch.manual_seed(2)
    student, teacher = embedding(3, 4, 2).requires_grad_(), embedding(4, 4, 3)
    srrl = SRRL(student, teacher, nn.Linear(3, 2)).double()
    assert torch.autograd.gradcheck(lambda s, *_: srrl(s, teacher), (student, *srrl.parameters()))


def test_three_steps_train_the_adapter_and_leave_the_teachers_layer() -> None:
    torch.manual_seed(3)
    student, teacher, head = embedding(5, 8, 2).float(), embedding(6, 8, 3).float(), nn.Linear(3, 2)
    srrl = SRRL(student, teacher, head)
    assert {name for name, _ in srrl.named_parameters()} == {"adapter.0.weight", "adapter.1.weight", "adapter.1.bias"}
    optimizer = torch.optim.SGD(srrl.parameters(), 0.1)
    weight, losses = head.weight.clone(), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = srrl(student, teacher).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert head.weight.grad is None
    torch.testing.assert_close(srrl.weight, weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_negative_weights_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"SRRL: {name} must not be negative, got -1"):
        SRRL(torch.zeros(4, 2), torch.zeros(4, 2), nn.Linear(2, 2), **{name: -1})
