"""Rounding to int8 in training: levels, gradients, and the agreement with the quantised graph."""

import copy

import pytest
import torch
from torch import nn

from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.models.exported import run_by_onnx, to_onnx
from gankd.models.int8 import to_int8
from gankd.models.portable import Portable
from gankd.models.rounded import rounded_inputs, rounded_to_int8, rounded_weight
from gankd.tasks import Classification


def test_levels_of_inputs_by_hand() -> None:
    x = torch.tensor([-1.0, 0.0, 0.004, 1.55])  # a step of 0.01, zero at level 100
    torch.testing.assert_close(rounded_inputs(x), torch.tensor([-1.0, 0.0, 0.0, 1.55]))
    positive = torch.tensor([0.5, 0.509, 2.55])  # zero is a level though none of the inputs is
    torch.testing.assert_close(rounded_inputs(positive), torch.tensor([0.5, 0.51, 2.55]))
    torch.testing.assert_close(rounded_inputs(torch.zeros(3)), torch.zeros(3))


def test_levels_of_weights_by_hand() -> None:
    weight = torch.tensor([[0.64, 0.014], [-64.0, 1.4]])
    torch.testing.assert_close(rounded_weight(weight), torch.tensor([[0.64, 0.01], [-64.0, 1.0]]))
    torch.testing.assert_close(rounded_weight(-weight), -rounded_weight(weight))
    scaled = weight * torch.tensor([[3.0], [-0.1]])  # as a batch normalisation scales each channel
    torch.testing.assert_close(rounded_weight(scaled), rounded_weight(weight) * torch.tensor([[3.0], [-0.1]]))
    torch.testing.assert_close(rounded_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_gradients_pass_the_rounding() -> None:
    x = torch.randn(50, requires_grad=True)
    rounded_inputs(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones(50))
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    rounded_weight(weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.ones(4, 3, 3, 3))


def test_the_network_is_what_it_was_when_the_block_ends() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    images, before = torch.randn(5, 1, 8, 8), copy.deepcopy(net.state_dict())
    exact = net(images)
    with rounded_to_int8(net):
        rounded = net(images)
        assert net.state_dict().keys() == before.keys()
        with torch.no_grad():
            again = copy.deepcopy(net)(images)
    torch.testing.assert_close(rounded, again)
    assert 1e-5 < (rounded - exact).abs().max() < 0.05
    torch.testing.assert_close(net(images), exact, rtol=0, atol=0)
    torch.testing.assert_close(net.state_dict(), before)


def test_it_computes_what_the_quantised_graph_does() -> None:
    """Better than the exact network: most of the graph's error is in the levels that are rounded here, too."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = build_net("cnn8", in_channels=1, image_size=8, num_outputs=5, seed=0)
    model = ImageModel(net, size=8, mean=torch.full((1,), 0.5), std=torch.full((1,), 0.3)).eval()
    with torch.no_grad():  # weights that few levels serve badly
        for parameter in net.parameters():
            parameter.mul_(1 + 3 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)))
    images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    portable = Portable(model, Classification(num_classes=5)).eval()
    quantised = to_int8(to_onnx(portable, 1, "cnn8"), images.numpy())
    graph = torch.from_numpy(run_by_onnx(quantised)[1](images.numpy()))
    with torch.no_grad():
        exact = portable(images)
        with rounded_to_int8(model):
            rounded = portable(images)
    assert (rounded - graph).pow(2).mean() < (exact - graph).pow(2).mean()
    stored = [
        onnx.numpy_helper.to_array(weight)
        for weight in onnx.load_model_from_string(quantised).graph.initializer
        if weight.data_type == onnx.TensorProto.INT8 and len(weight.dims) > 1
    ]
    assert len(stored) == sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in net.modules())
    assert {int(abs(weight.astype(int)).max()) for weight in stored} == {64}  # sums of products that no processor cuts
