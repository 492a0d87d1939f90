"""The contract of a model: normalisation by formula, task units, ensembles as means, and errors that help."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ModelError
from gankd.models import build_net
from gankd.models.contract import (
    Ensemble,
    ImageModel,
    check_model,
    evaluate,
    predict,
    predict_with_features,
)
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CLASSES = Classification(num_classes=3)
AGES = Regression(low=20.0, high=60.0, unit="years")


def images(count: int = 6, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=rng(0, "x")).to(torch.uint8)


def data(task: Task = CLASSES, count: int = 6) -> LabelledImages:
    real = torch.arange(3) if isinstance(task, Classification) else torch.tensor([20.0])
    labels = task.sample_labels(count, real, "uniform", rng(0, "l"))
    return LabelledImages(images(count), labels, task)


def net(outputs: int = 3, seed: int = 0) -> nn.Module:
    return build_net("cnn4", in_channels=3, image_size=8, num_outputs=outputs, seed=seed)


class Probe(nn.Module):
    """Hands back what the wrapped network is fed."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_the_network_is_fed_what_the_contract_states() -> None:
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    model = ImageModel(Probe(), size=8, mean=mean, std=std)
    expected = (images().double() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(model(images()), expected.float().flatten(1))
    torch.testing.assert_close(model(images()), model(images().float() / 255))  # stored and augmented agree


def test_for_data_normalises_that_data() -> None:
    fed = ImageModel.for_data(Probe(), data()).normalise(data().images)
    torch.testing.assert_close(fed.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(fed.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    flat = LabelledImages(torch.full_like(images(), 7), data().labels, CLASSES)
    assert ImageModel.for_data(Probe(), flat)(flat.images).abs().max() < 1e-5  # no division by a spread of zero


def test_pixels_are_read_once_per_data_set(work: Callable[[Callable[[], object]], int]) -> None:
    costs = []
    for count in (6, 600):
        some = data(count=count)
        assert work(lambda some=some: ImageModel.for_data(Probe(), some)) > some.images.numel()  # type: ignore[misc]
        costs.append(work(lambda some=some: ImageModel.for_data(Probe(), some)))  # type: ignore[misc]
    assert costs[0] == costs[1] < 100


def test_images_of_another_size_are_resized_before_normalising() -> None:
    model = ImageModel(Probe(), size=8, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))
    large = images(size=16)
    means = F.interpolate(large.float() / 255, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(model(large), ((means - 0.5) / 0.25).flatten(1))
    grey = torch.full((1, 3, 24, 12), 51, dtype=torch.uint8)
    torch.testing.assert_close(model(grey), torch.full((1, 192), (0.2 - 0.5) / 0.25))


class Constant(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        return self.values.expand(len(x), *self.values.shape[1:])


def test_outputs_speak_the_tasks_units() -> None:
    for raw in (torch.tensor([[0.25]]), torch.tensor([0.25])):  # (N, 1) and (N,) networks
        model = ImageModel.for_data(Constant(raw), data(AGES))
        torch.testing.assert_close(model(images()), torch.full((6,), 20 + 40 * 0.25))
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    model = ImageModel.for_data(Constant(logits), data())
    assert torch.equal(model(images()), logits.expand(6, 3))


def test_a_half_precision_network_gives_float32() -> None:
    model = ImageModel.for_data(Constant(torch.tensor([[0.25]], dtype=torch.bfloat16)), data(AGES))
    assert model(images()).dtype == torch.float32


def test_the_contract_is_stored_with_the_weights() -> None:
    one = ImageModel(net(), size=8, mean=torch.tensor([0.1, 0.2, 0.3]), std=torch.ones(3))
    two = ImageModel(net(seed=1), size=8, mean=torch.zeros(3), std=torch.full((3,), 0.5))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(images()), two.eval()(images()))


def test_features_are_what_the_last_linear_layer_reads() -> None:
    model = ImageModel.for_data(net(), data()).eval()
    outputs, features = model.outputs_and_features(images())
    head = model.net.head
    assert isinstance(head, nn.Linear)
    assert features.shape == (6, head.in_features)
    torch.testing.assert_close(head(features), outputs)
    assert torch.equal(outputs, model(images()))
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("task", [CLASSES, AGES])
def test_an_ensemble_is_the_mean_of_outputs_and_the_concatenation_of_features(task: Task) -> None:
    members = [net(task.head_size, seed) for seed in range(3)]
    singles = [ImageModel.for_data(member, data(task)).eval() for member in members]
    both = ImageModel.for_data(Ensemble(members), data(task)).eval()
    outputs, features = both.outputs_and_features(images())
    pairs = [single.outputs_and_features(images()) for single in singles]
    torch.testing.assert_close(outputs, torch.stack([pair[0] for pair in pairs]).mean(0))
    torch.testing.assert_close(features, torch.cat([pair[1] for pair in pairs], 1))


def test_a_network_without_a_linear_layer_has_no_features() -> None:
    for network in (Probe(), Ensemble([net(), Probe()])):
        with pytest.raises(ModelError, match="has no nn.Linear .* end it in a linear layer"):
            ImageModel.for_data(network, data()).outputs_and_features(images())


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


def refusal(network: nn.Module, task: Task = CLASSES) -> str:
    with pytest.raises(ModelError) as error:
        check_model(ImageModel.for_data(network, data(task)), data(task), "teacher")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("teacher ")
    return str(error.value)


def test_check_model_says_what_does_not_fit() -> None:
    assert refusal(net(5)) == (
        "teacher gives outputs of shape (2, 5) for 2 images; classification into 3 classes needs (2, 3) logits; a "
        "network of your own takes their number as its argument num_outputs or num_classes"
    )
    assert "regression needs (2,) or (2, 1) values" in refusal(net(3), AGES)
    assert "shape (2,) for 2 images" in refusal(net(1))
    colour = build_net("cnn4", in_channels=1, image_size=8, num_outputs=3, seed=0)
    assert refusal(colour).startswith("teacher fails on images of shape (3, 8, 8): ")
    assert "expected input" in refusal(colour)


@pytest.mark.parametrize(
    "error", [AssertionError(), KeyError("layer"), ValueError("two\nlines"), IndexError(), AttributeError("x")]
)
def test_check_model_survives_whatever_a_users_network_raises(error: Exception) -> None:
    assert type(error).__name__ in refusal(Raises(error))


def test_check_model_reports_outputs_that_hold_no_tensor() -> None:
    class Sizes(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return list(x.shape)

    assert "Sizes gives a list; expected a tensor of logits or values" in refusal(Sizes())


@pytest.mark.parametrize("training", [True, False])
def test_check_model_leaves_the_model_as_it_was(training: bool) -> None:
    model = ImageModel.for_data(net(), data()).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model, data(), "student")
    assert model.training == training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    check_model(model, data(count=1), "student")  # one image is enough


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    model = ImageModel.for_data(net(), data()).train()
    whole, expected = model.eval().outputs_and_features(images(100))
    torch.testing.assert_close(predict(model.train(), images(100), PLAIN), whole)  # in eval mode
    outputs, features = predict_with_features(model.train(), images(100), PLAIN)
    torch.testing.assert_close(outputs, whole)
    torch.testing.assert_close(features, expected)
    assert not outputs.requires_grad


def test_evaluate_gives_the_tasks_metrics() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    model = ImageModel.for_data(Constant(torch.tensor([[5.0, 0.0, 0.0]])), data())
    found = evaluate(model, LabelledImages(images(4), labels, CLASSES), PLAIN)
    assert found["top1"] == 50.0
    ages = ImageModel.for_data(Constant(torch.tensor([[0.5]])), data(AGES))
    found = evaluate(ages, LabelledImages(images(2), torch.tensor([30.0, 60.0]), AGES), PLAIN)
    assert found["mae"] == pytest.approx(15.0)


def test_values_are_read_out_in_float32_under_autocast() -> None:
    angles = LabelledImages(images(64, size=16), torch.linspace(20, 60, 64), AGES)
    small = build_net("cnn4", in_channels=3, image_size=16, num_outputs=1, seed=0)
    model = ImageModel.for_data(small, angles).eval()
    fast = Engine(torch.device("cpu"), bf16=True, channels_last=True)
    # In bfloat16 the 64 values would fall on few steps of 40 years / 256.
    assert len(predict(model, angles.images, fast).unique()) == 64
