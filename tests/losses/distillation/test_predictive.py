"""Distributions over labels: the running error, Gaussians against torch's own KL, histograms against plain loops."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from gankd.errors import ConfigError
from gankd.losses.distillation.predictive import Gaussian, Histogram, TeacherError
from gankd.seeds import rng


def draw(seed: int, count: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student values, teacher values, embedding and labels."""
    student, teacher, labels = torch.rand(3, count, generator=rng(seed, "values"), dtype=dtype)
    return student, teacher, torch.randn(count, 4, generator=rng(seed, "embedding"), dtype=dtype), labels


def built(make: type[Any], seed: int, **settings: Any) -> Any:
    """With read-outs of some size."""
    module: nn.Module = make(torch.zeros(4, 4), torch.zeros(4), **settings)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng(seed, str(parameter.shape))))
    return module


def test_the_running_error_takes_all_of_the_first_batches_alike() -> None:
    """Three steps; the sign between teacher and label, or an update in eval mode, turns this red."""
    error = TeacherError(momentum=0.6, floor=0.1)
    labels = torch.tensor([0.5, 0.5])
    assert error.eval()(labels, labels).item() == pytest.approx(0.01)  # nothing seen yet: the floor
    error.train()
    expected = [0.04, 0.065, 0.6 * 0.065 + 0.4 * 0.01]  # 0.2^2; its mean with 0.3^2; then 0.4 of 0.1^2
    for off, mean in zip((0.2, 0.3, 0.1), expected, strict=True):
        assert error(labels + torch.tensor([off, -off]), labels).item() == pytest.approx(mean)
    assert error.eval()(labels + 5, labels).item() == pytest.approx(expected[-1])
    assert set(error.state_dict()) == {"mean", "updates"}  # a resumed run goes on with it
    exact = TeacherError(momentum=0.9, floor=0.1)
    assert exact(labels, labels).item() == pytest.approx(0.01)


def test_gaussians_start_as_the_squared_distance() -> None:
    student, teacher, embedding, labels = draw(0)
    found = Gaussian(embedding, student)(student, teacher, embedding, labels)
    torch.testing.assert_close(found, (student - teacher).square())


def test_gaussians_follow_torch() -> None:
    """Flipping the sign of the log-ratio in either term, or adding the student to the teacher, turns this red."""
    student, teacher, embedding, labels = draw(1)
    loss = built(Gaussian, 1, floor=0.05)
    found = loss(student, teacher, embedding, labels)
    variance = (teacher - labels).square().mean()  # well above the floor
    raw = loss.read_out(embedding / embedding.norm(dim=1, keepdim=True))[:, 0]
    ratio = torch.where(raw > 0, raw, raw.exp() - 1).exp()
    assert raw.min() < 0 < raw.max()
    expected = (
        2 * variance * kl_divergence(Normal(teacher, variance.sqrt()), Normal(student, (ratio * variance).sqrt()))
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_gaussians_are_least_at_the_teacher_and_at_the_spread_of_the_gap() -> None:
    _, teacher, embedding, labels = draw(2, dtype=torch.float64)
    loss = Gaussian(embedding, teacher, floor=0.2).double().eval()  # nothing seen yet: s_t is the floor
    assert loss(teacher, teacher, embedding, labels).eq(0).all()
    # a student off by 0.3 everywhere: e^l = 1 + 0.09 / 0.04
    bias = loss.read_out.bias
    with torch.no_grad():
        bias.fill_(math.log(1 + 0.09 / 0.04))
    (gradient,) = torch.autograd.grad(loss(teacher + 0.3, teacher, embedding, labels).sum(), bias)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    least = loss(teacher + 0.3, teacher, embedding, labels)
    for nudge in (-0.2, 0.2):
        with torch.no_grad():
            bias.fill_(math.log(1 + 0.09 / 0.04) + nudge)
        assert (loss(teacher + 0.3, teacher, embedding, labels) > least + 1e-4).all()


def test_no_image_weighs_more_than_e_times_its_share() -> None:
    student, teacher, embedding, labels = draw(3)
    loss = Gaussian(embedding, student)
    with torch.no_grad():
        loss.read_out.bias.fill_(-100)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher, embedding, labels).sum(), student)
    torch.testing.assert_close(gradient, 2 * math.e * (student - teacher).detach())
    embedding = torch.zeros_like(embedding, requires_grad=True)
    built(Gaussian, 3)(student, teacher, embedding, labels).sum().backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().max() < 1e4


def plain_histogram(value: float, sigma: float, bins: int, margin: float = 0.0) -> list[float]:
    """Normal mass of each bin, rescaled."""
    edges = [(1 + 2 * margin) * k / bins - margin for k in range(bins + 1)]
    below = [0.5 * (1 + math.erf((edge - value) / (sigma * math.sqrt(2)))) for edge in edges]
    return [(high - low) / (below[-1] - below[0]) for low, high in pairwise(below)]


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_histograms_follow_their_definition(margin: float) -> None:
    """KL the other way round, a plus before the histogram's mean, or bins read at their edges turn this red."""
    student, teacher, embedding, labels = draw(4)
    labels = teacher if margin > 0 else labels  # a teacher that is never wrong is as wide as a bin
    loss = built(Histogram, 4, bins=7, margin=margin)
    found = loss(student, teacher, embedding, labels)
    sigma = max(math.sqrt((teacher - labels).square().mean().item()), (1 + 2 * margin) / 7)
    expected = []
    for value, truth, logits in zip(student.tolist(), teacher.tolist(), loss.head(embedding).tolist(), strict=True):
        total = sum(math.exp(z) for z in logits)
        own = [math.exp(z) / total for z in logits]
        target = plain_histogram(truth, sigma, 7, margin)
        mean = sum(((1 + 2 * margin) * (k + 0.5) / 7 - margin) * p for k, p in enumerate(own))
        kl = sum(t * math.log(t / p) for t, p in zip(target, own, strict=True))
        expected.append(kl + (value - mean) ** 2)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_histogram_of_two_bins_by_hand() -> None:
    # a teacher at 1/2 fills both halves alike, as a new head of zeros does: only the value's distance to 1/2 is left
    loss = Histogram(torch.zeros(4, 3), torch.zeros(4), bins=2, margin=0.0)
    nn.init.zeros_(loss.head.weight)
    nn.init.zeros_(loss.head.bias)
    half = torch.full((3,), 0.5)
    found = loss(torch.tensor([0.5, 0.2, 1.0]), half, torch.ones(3, 3), half)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.09, 0.25]))


def test_a_histogram_is_zero_at_the_teachers() -> None:
    # nothing seen yet: s_t is a bin's width
    loss = Histogram(torch.zeros(4, 8), torch.zeros(4), bins=8, margin=0.0).double().eval()
    teacher = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    target = torch.tensor([plain_histogram(value, 1 / 8, 8) for value in teacher.tolist()], dtype=torch.float64)
    with torch.no_grad():
        loss.head.weight.copy_(torch.eye(8))
        loss.head.bias.zero_()
    mean = target @ ((torch.arange(8) + 0.5).double() / 8)
    assert loss(mean, teacher, target.log(), teacher).abs().max() < 1e-12
    assert (loss(mean, teacher, target.log().flip(0), teacher) > 0.1).any()
    torch.testing.assert_close(mean[2], teacher[2])


def test_the_margin_keeps_means_where_they_are() -> None:
    ends = torch.tensor([0.0, 1.0])
    for margin, inwards in ((0.0, 0.8), (0.25, 0.02)):
        loss = Histogram(torch.zeros(4, 60), torch.zeros(4), bins=60, margin=margin).eval()
        loss.teacher_error.mean.fill_(0.01)  # s_t = 0.1
        edges = loss.edges.tolist()
        shift = []
        for value in ends.tolist():
            own = plain_histogram(value, 0.1, 60, margin)
            mean = sum(p * (low + high) / 2 for p, (low, high) in zip(own, pairwise(edges), strict=True))
            shift.append(abs(mean - value))
            nn.init.eye_(loss.head.weight)
            nn.init.zeros_(loss.head.bias)
            logits = torch.tensor([own]).clamp_min(1e-12).log()
            found = loss(torch.tensor([mean]), torch.tensor([value]), logits, ends[:1])
            assert found.item() == pytest.approx(0, abs=1e-5)
        assert max(shift) < 0.1 * inwards + 1e-3
        assert margin > 0 or min(shift) > 0.07


def test_teachers_beyond_the_range_count_as_its_ends() -> None:
    _, _, embedding, _ = draw(5, 2)
    loss = built(Histogram, 5).eval()
    values, ends = torch.tensor([-7.0, 9.0]), torch.tensor([0.0, 1.0])
    found = loss(ends, values, embedding, ends)
    assert found.isfinite().all()
    torch.testing.assert_close(found, loss(ends, ends, embedding, ends))


@pytest.mark.parametrize("make", [Gaussian, Histogram])
def test_rows_do_not_depend_on_their_order(make: type[Any]) -> None:
    inputs = draw(6)
    order = torch.randperm(6, generator=rng(6, "order"))
    found = built(make, 6)(*inputs)
    torch.testing.assert_close(built(make, 6)(*(value[order] for value in inputs)), found[order])


@pytest.mark.parametrize("make", [Gaussian, Histogram])
def test_gradient_check(make: type[Any]) -> None:
    student, teacher, embedding, labels = draw(7, 3, torch.float64)
    loss = built(make, 7).double().eval()
    loss.teacher_error.mean.fill_(0.1)
    student.requires_grad_()
    embedding.requires_grad_()
    parameters = tuple(loss.parameters())
    assert torch.autograd.gradcheck(lambda s, e, *_: loss(s, teacher, e, labels), (student, embedding, *parameters))


def test_settings_out_of_range_are_refused() -> None:
    embedding = torch.zeros(4, 3)
    for make, settings in (
        (Gaussian, {"momentum": 1.0}),
        (Gaussian, {"floor": 0.0}),
        (Histogram, {"momentum": -0.1}),
        (Histogram, {"bins": 1}),
        (Histogram, {"margin": -1.0}),
    ):
        name, value = next(iter(settings.items()))
        with pytest.raises(ConfigError, match=f"^{make.__name__}: {name} must .*, got {value}$"):
            make(embedding, torch.zeros(4), **settings)
