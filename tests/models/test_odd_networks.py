"""Odd but legal networks compute inside gankd what they compute outside: in training, in evaluation, and exported."""

import copy
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ModelError
from gankd.models import build_net
from gankd.models.contract import Ensemble, ImageModel, check_model, predict
from gankd.models.files import load_model, save_model
from gankd.models.head import teacher_head
from gankd.seeds import rng
from gankd.tasks import Classification, Regression
from gankd.training.supervised import SupervisedConfig, train_supervised

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.2, 0.3])
IMAGES = torch.randint(256, (8, 3, 16, 16), generator=rng(0, "x"), dtype=torch.uint8)
LABELS = torch.arange(8) % 5
CLASSES = Classification(num_classes=5)
DATA = LabelledImages(IMAGES, LABELS, CLASSES)
PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
BF16 = Engine(torch.device("cpu"), bf16=True, channels_last=False)


class Net(nn.Module):
    """A body of two convolutions and the given head."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.head = head or nn.Linear(16, 5)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


class CosineLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 8 * F.linear(F.normalize(x), F.normalize(self.weight))


class LowRank(nn.Linear):
    """A linear layer and an adapter of rank 2 (LoRA)."""

    def __init__(self) -> None:
        super().__init__(16, 5)
        self.down, self.up = nn.Linear(16, 2, bias=False), nn.Linear(2, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 2 * self.up(self.down(x))


class Quantised(nn.Linear):
    """Weights rounded to steps of 1/8 (quantisation-aware training)."""

    def forward(self, x: Tensor) -> Tensor:
        rounded = self.weight + ((8 * self.weight).round() / 8 - self.weight).detach()
        return F.linear(x, rounded, self.bias)


class Tempered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.temperature


class ScaledLinear(nn.Linear):
    """Scaled weights (equalised learning rate)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 3 * self.weight, self.bias)


class Tied(Net):
    """One linear layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = self.first
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.features(x)).relu()).relu())


class TwoHeads(Net):
    """The sum of two linear layers, declared in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.other(x).relu() + self.head(x)


class LastIsNotLast(Net):
    """The linear layer that is declared last works on something else than the head's input."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x * self.gate(x).sigmoid())


Outputs = namedtuple("Outputs", ["aux", "logits"])


class Auxiliary(Net):
    """More outputs while training."""

    def forward(self, x: Tensor) -> Any:
        x = self.features(x)
        return Outputs(x, self.head(x)) if self.training else self.head(x)


class Returns(Net):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        x = self.features(x)
        return self.wrap(self.head(x), x)


class Partly(nn.Linear):
    """A head in a type of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Buffered(Net):
    """Keeps a running count, and normalises its images itself."""

    calls: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shift", torch.full((1, 3, 1, 1), 0.1), persistent=False)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.calls += 1
        return super().forward(x - self.shift)


class Autocasts(nn.Linear):
    """Leaves autocast by itself, and refuses lower precision."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            given = super().forward(x.float())
        assert given.dtype == torch.float32
        return given


def hooked() -> nn.Module:
    net = Net()
    net.head.register_forward_hook(lambda _, __, output: 2 * output + 1)
    net.head.register_forward_pre_hook(lambda _, inputs: (inputs[0].relu() + 0.5,))
    return net


def without_linear() -> nn.Module:
    body = Net().body.append(nn.Conv2d(16, 5, 3, padding=1))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def lazy() -> nn.Module:
    return nn.Sequential(
        *(nn.LazyConv2d(16, 3, 2, 1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten()),
        nn.LazyLinear(5),
    )


def frozen() -> nn.Module:
    net = Net()
    net.body.requires_grad_(False)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    "cosine": lambda: Net(CosineLinear(16, 5)),
    "low rank": lambda: Net(LowRank()),
    "quantised": lambda: Net(Quantised(16, 5)),
    "temperature": Tempered,
    "scaled weights": lambda: Net(ScaledLinear(16, 5)),
    "no bias": lambda: Net(nn.Linear(16, 5, bias=False)),
    "tied": Tied,
    "two heads": TwoHeads,
    "last is not last": LastIsNotLast,
    "head in a sequence": lambda: Net(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5), nn.LogSoftmax(1))),
    "convolution": lambda: nn.Sequential(Net().body, nn.Conv2d(16, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "no linear layer": without_linear,
    "weight norm": lambda: Net(parametrizations.weight_norm(nn.Linear(16, 5))),
    "spectral norm": lambda: Net(parametrizations.spectral_norm(nn.Linear(16, 5))),
    "orthogonal": lambda: Net(parametrizations.orthogonal(nn.Linear(16, 5))),
    "lazy": lazy,
    "hooks": hooked,
    "buffers": Buffered,
    "frozen body": frozen,
    "leaves autocast": lambda: Net(Autocasts(16, 5)),
    "auxiliary outputs": Auxiliary,
    "tuple": lambda: Returns(lambda logits, x: (logits, x)),
    "dict": lambda: Returns(lambda logits, x: {"features": x, "logits": logits}),
    "object": lambda: Returns(lambda logits, x: SimpleNamespace(features=x, logits=logits)),
    "double": lambda: Net().double(),
    "bfloat16": lambda: Net().bfloat16(),
    "half": lambda: Net().half(),
    "double head": lambda: Net(Partly(16, 5).double()),
    "bfloat16 head": lambda: Net(Partly(16, 5).bfloat16()),
    "half head": lambda: Net(Partly(16, 5).half()),
    "double cosine head": lambda: Net(CosineLinear(16, 5)).double(),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def outside(net: nn.Module) -> Tensor:
    """Outputs as the network's author has them: normalised images in the type of the weights, and its logits."""
    kind = next((p.dtype for p in net.parameters()), torch.float32)
    x = (IMAGES.float() / 255 - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1)
    given = net(x.to(kind))
    if isinstance(given, dict):
        given = given["logits"]
    elif not isinstance(given, Tensor):
        given = given[0] if type(given) is tuple else given.logits
    return given.float()


def wrap(net: nn.Module) -> ImageModel:
    return ImageModel(net, size=16, mean=MEAN, std=STD)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_networks_own(name: str, training: bool) -> None:
    net = made(name)
    outside(net.eval())  # lazy layers get their weights
    model, fast = wrap(copy.deepcopy(net)), wrap(copy.deepcopy(net))  # batch norms and spectral norms change
    expected = outside(net.train(training)).detach()
    # Sums are in the order of another memory layout, so that the last digits of each type differ.
    rounding = 2e-2 if name.startswith(("half", "bfloat16")) else 1e-5
    torch.testing.assert_close(model.train(training)(IMAGES), expected, rtol=rounding, atol=rounding)
    torch.testing.assert_close(model.net.state_dict(), net.state_dict(), rtol=rounding, atol=rounding)  # changed alike
    with BF16.autocast():
        assert (fast.train(training)(IMAGES) - expected).abs().max() < 2e-2 * expected.abs().max().clamp_min(1)
    if not training:
        torch.testing.assert_close(predict(model, IMAGES, PLAIN), expected, rtol=rounding, atol=rounding)
        assert (predict(fast, IMAGES, BF16) - expected).abs().max() < 2e-2 * expected.abs().max().clamp_min(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_wrapped_network_trains_and_its_export_computes_what_was_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"odd_{abs(hash(name))}.py").write_text("")
    monkeypatch.setattr("gankd.models._import", lambda module, attribute: NETWORKS[attribute])
    spelling = f"odd:{name}"
    model = ImageModel.for_data(
        build_net(spelling, in_channels=3, image_size=16, num_outputs=5, seed=0),
        LabelledImages(IMAGES, LABELS, CLASSES),
    )
    before = copy.deepcopy(model.state_dict())
    config = SupervisedConfig(updates=2, batch_size=8, lr=1e-3, augment=())
    train_supervised(model, DATA, DATA, config, PLAIN, 0)
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    measured = predict(model, IMAGES, PLAIN)
    save_model(tmp_path / "student.safetensors", model, spelling, CLASSES)
    loaded, task = load_model(tmp_path / "student.safetensors", trust=True)
    assert task == CLASSES
    assert torch.equal(predict(loaded, IMAGES, PLAIN), measured)


def test_members_of_an_ensemble_may_give_more_than_their_logits() -> None:
    nets = [made("dict"), made("cosine")]
    model = wrap(Ensemble(nets)).eval()
    torch.testing.assert_close(model(IMAGES), (outside(nets[0]) + outside(nets[1])) / 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda logits, x: {"scores": logits, "x": x}, "a dict with scores, x; expected"),
        (lambda logits, x: {}, "a dict with nothing; expected"),
        (lambda logits, x: (), "a tuple; expected a tensor of logits or values, a tuple that begins with it"),
        (lambda logits, x: ("loss", logits), "a tuple; expected"),
        (lambda logits, x: None, "a NoneType; expected"),
    ],
)
def test_other_outputs_are_refused_in_one_line(given: Callable[[Tensor, Tensor], Any], said: str) -> None:
    with pytest.raises(ModelError, match=f"student tiny cannot be read: Returns gives {said}"):
        check_model(wrap(Returns(given)), DATA, "student tiny")


def test_values_of_ones_own_network_are_not_rounded_to_bfloat16() -> None:
    angles = torch.linspace(20, 60, 8)
    data = LabelledImages(IMAGES, angles, Regression(low=20.0, high=60.0))
    net = Net(nn.Linear(16, 1)).eval()
    model = ImageModel.for_data(net, data).eval()
    with torch.no_grad():
        assert torch.equal(predict(model, IMAGES, BF16), model(IMAGES))


@pytest.mark.parametrize("name", ["cosine", "low rank", "quantised", "temperature", "scaled weights", "hooks"])
def test_a_head_that_is_not_a_plain_product_is_not_given_to_losses_as_one(name: str) -> None:
    with pytest.raises(ModelError, match="changes what its last layer gives"):
        teacher_head(wrap(made(name)).eval(), IMAGES, CLASSES)


@pytest.mark.parametrize("name", ["plain", "no bias", "tied", "weight norm", "double", "bfloat16", "half", "dict"])
def test_a_head_that_is_a_plain_product_is_read(name: str) -> None:
    model = wrap(made(name)).eval()
    head = teacher_head(model, IMAGES, CLASSES)
    with torch.no_grad():
        outputs, features = model.outputs_and_features(IMAGES)
        torch.testing.assert_close(head(features), outputs, rtol=2e-2, atol=2e-2)


def test_lazy_layers_get_weights_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gankd.models._import", lambda module, attribute: lazy)

    def weights(seed: int) -> list[Tensor]:
        net = build_net("odd:lazy", in_channels=3, image_size=16, num_outputs=5, seed=seed)
        assert net.training
        return list(net.state_dict().values())

    assert all(torch.equal(one, other) for one, other in zip(weights(0), weights(0), strict=True))
    assert not torch.equal(weights(0)[0], weights(1)[0])


def test_lazy_layers_that_cannot_be_set_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.aux = lazy(), nn.LazyLinear(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    monkeypatch.setattr("gankd.models._import", lambda module, attribute: Unused)
    with pytest.raises(ModelError, match=r"lazy layers that do not run in eval mode: aux.weight, aux.bias"):
        build_net("odd:Unused", in_channels=3, image_size=16, num_outputs=5, seed=0)
    monkeypatch.setattr(
        "gankd.models._import", lambda module, attribute: lambda: nn.Sequential(lazy(), nn.Conv2d(1, 1, 3))
    )
    with pytest.raises(ModelError, match=r"model odd:Wrong fails on images of shape \(3, 16, 16\): "):
        build_net("odd:Wrong", in_channels=3, image_size=16, num_outputs=5, seed=0)
