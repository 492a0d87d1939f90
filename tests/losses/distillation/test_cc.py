"""CC against loops, its kernel against the Gaussian that it expands, and its gradient."""

import math

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.cc import CC, kernel
from gankd.seeds import rng


def embedding(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed, "embedding"), dtype=torch.float64)


def test_the_kernel_tends_to_the_gaussian_less_its_constant() -> None:
    # Red when the exponent's minus, the factor 2 of gamma or the factorial is dropped.
    unit = torch.nn.functional.normalize(embedding(0, 5, 3), dim=1)
    gaussian = (-0.7 * torch.cdist(unit, unit).square()).exp() - math.exp(-1.4)
    torch.testing.assert_close(kernel(5 * unit, 0.7, 20), gaussian)


def test_the_published_kernel_by_hand() -> None:
    pair = torch.tensor([[2.0, 0.0], [0.5, 0.5]])  # cosine 1 / sqrt 2
    value = math.exp(-0.8) * (0.8 / 2**0.5 + 0.8**2 / 2 / 2)
    assert kernel(pair, 0.4, 2)[0, 1].item() == pytest.approx(value)


def test_cc_follows_its_formula() -> None:
    # Red when the minus between the kernels becomes a plus, and when the mean over a row becomes a sum.
    torch.manual_seed(0)
    student, teacher = embedding(1, 4, 3), embedding(2, 4, 5)
    cc = CC(student, teacher, dim=6).double()
    k_s, k_t = kernel(cc.student(student), 0.4, 2).tolist(), kernel(cc.teacher(teacher), 0.4, 2).tolist()
    expected = [sum((k_s[i][j] - k_t[i][j]) ** 2 for j in range(4)) / 4 for i in range(4)]
    torch.testing.assert_close(cc(student, teacher), torch.tensor(expected, dtype=torch.float64))


def test_cc_is_zero_for_equal_projections_whatever_their_scale() -> None:
    torch.manual_seed(1)
    teacher = embedding(3, 4, 5)
    cc = CC(teacher, teacher).double()
    assert cc(teacher, teacher).min() > 0
    cc.student.weight, cc.student.bias = cc.teacher.weight, cc.teacher.bias
    torch.testing.assert_close(cc(teacher, teacher), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(kernel(3 * teacher, 0.4, 2), kernel(teacher, 0.4, 2))


def test_cc_gradient_reaches_the_student_and_both_projections() -> None:
    torch.manual_seed(2)
    student, teacher = embedding(4, 3, 2).requires_grad_(), embedding(5, 3, 4)
    cc = CC(student, teacher, dim=3).double()
    assert torch.autograd.gradcheck(lambda s, *_: cc(s, teacher), (student, *cc.parameters()))
    before = cc(student, teacher).sum()
    for _ in range(3):
        optimizer = torch.optim.SGD(cc.parameters(), 1.0)
        optimizer.zero_grad()
        cc(student, teacher).sum().backward()
        optimizer.step()
    assert cc(student, teacher).sum() < before


@pytest.mark.parametrize("setting", [{"gamma": 0.0}, {"order": 0}, {"dim": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"CC: {next(iter(setting))} must be"):
        CC(torch.zeros(4, 2), torch.zeros(4, 2), **setting)  # type: ignore[arg-type]
