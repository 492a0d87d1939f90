import math

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.subsampling.ratio_net import LOG_LIMIT, DensityRatio, Head, RatioNet
from gankd.tasks import Classification, Regression, Task

CLASSES = Classification(num_classes=5)
ANGLES = Regression(low=-90, high=90, unit="degrees")


def samples(task: Task, count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = task.sample_labels(count, torch.linspace(-90, 90, 50), "uniform", generator)
    return 4 + 3 * torch.randn(count, 6, generator=generator), labels


def awake(ratio: DensityRatio) -> DensityRatio:
    """With values in every buffer."""
    generator = torch.Generator().manual_seed(1)
    for buffer in (ratio.mean, ratio.log_normaliser):
        buffer.normal_(generator=generator)
    ratio.std.uniform_(0.5, 2, generator=generator)
    ratio.calibration.copy_(torch.tensor([0.7, -0.2]))
    return ratio


@pytest.mark.parametrize("task", [CLASSES, ANGLES])
@pytest.mark.parametrize("head", ["log", "relu", "softplus"])
def test_state_dict_round_trip(task: Task, head: Head) -> None:
    features, labels = samples(task)
    first = awake(DensityRatio(task, 6, (64, 32), head, dropout=0.5))
    second = DensityRatio(task, 6, (64, 32), head)
    assert not torch.equal(first.log_ratio(features, labels), second.log_ratio(features, labels))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.log_ratio(features, labels), second.log_ratio(features, labels))


@pytest.mark.parametrize("head", ["log", "softplus"])
def test_score_is_the_calibrated_and_normalised_output(head: Head) -> None:
    features, labels = samples(CLASSES)
    ratio = awake(DensityRatio(CLASSES, 6, (32,), head)).eval()
    raw = ratio.net((features - ratio.mean) / ratio.std, labels)
    raw = raw if head == "log" else raw.log()
    expected = 0.7 * raw - 0.2 - ratio.log_normaliser[labels]
    torch.testing.assert_close(ratio.log_ratio(features, labels), expected.detach())


def test_scores_are_float32_within_limits_and_without_gradient() -> None:
    features, labels = samples(CLASSES)
    ratio = DensityRatio(CLASSES, 6, (32,), "log")
    with torch.no_grad():
        ratio.net.out.weight.mul_(1e4)
    ratio.train()
    with torch.autocast("cpu", torch.bfloat16):
        scores = ratio.log_ratio(features.half(), labels)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert scores.abs().max() == LOG_LIMIT
    torch.testing.assert_close(scores, ratio.log_ratio(features.half(), labels))


def test_dead_relu_output_is_the_smallest_ratio() -> None:
    features, labels = samples(CLASSES)
    ratio = DensityRatio(CLASSES, 6, (32,), "relu")
    with torch.no_grad():
        ratio.net.out.weight.zero_()
        ratio.net.out.bias.fill_(-1.0)
    assert (ratio.log_ratio(features, labels) == -LOG_LIMIT).all()


def test_dropout_comes_from_the_given_generator_and_only_in_training() -> None:
    features, labels = samples(CLASSES)
    net = RatioNet(CLASSES, 6, (64,), dropout=0.5)
    before = torch.random.get_rng_state()
    first = net(features, labels, torch.Generator().manual_seed(1))
    again = net(features, labels, torch.Generator().manual_seed(1))
    other = net(features, labels, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
    mean = torch.stack(
        [net(features, labels, torch.Generator().manual_seed(seed)).detach() for seed in range(2000)]
    ).mean(0)
    # One hidden layer: dropout is unbiased there, so its mean is the eval mode's output.
    torch.testing.assert_close(mean, net.eval()(features, labels).detach(), atol=0.05, rtol=0)


def test_labels_matter_and_scalar_labels_act_smoothly() -> None:
    features, _ = samples(CLASSES)
    classes = RatioNet(CLASSES, 6, (64,)).eval()
    assert not torch.equal(classes(features, torch.zeros(64).long()), classes(features, torch.ones(64).long()))
    angles = RatioNet(ANGLES, 6, (64,)).eval()
    sweep = torch.stack([angles(features, torch.full((64,), a)) for a in torch.linspace(-90, 90, 361).tolist()])
    assert sweep.std(0).min() > 0
    assert sweep.diff(dim=0).abs().max() < 0.2 * (sweep.max() - sweep.min())


def test_ratios_start_near_one() -> None:
    features, labels = samples(CLASSES)
    heads: tuple[Head, ...] = ("log", "relu", "softplus")
    for head in heads:
        torch.manual_seed(0)
        start = RatioNet(CLASSES, 6, (64, 32), head).eval().log_ratio(features, labels)
        assert start.abs().mean() < math.log(3)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 8"):
        RatioNet(CLASSES, 6, (100, 60))
    for hidden in ((), (64, 16)):
        with pytest.raises(ConfigError, match="hidden"):
            RatioNet(CLASSES, 6, hidden)
    with pytest.raises(ConfigError, match="dropout"):
        RatioNet(CLASSES, 6, (32,), dropout=1.0)
