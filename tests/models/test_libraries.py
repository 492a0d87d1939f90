"""Networks of timm and torchvision: what they are asked for, what is refused, and that nothing is downloaded."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gankd.errors import CheckpointError, ModelError
from gankd.models import build_net
from gankd.models.weights import load_weights
from gankd.storage import fill


def build(name: str, channels: int = 3, outputs: int = 5, seed: int = 0) -> nn.Module:
    return build_net(name, in_channels=channels, image_size=16, num_outputs=outputs, seed=seed)


def small_net(channels: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2, padding=1, bias=False), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs)),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand-ins for both libraries; what they were asked for."""
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **settings: Any) -> nn.Module:
        calls.append({"name": name, **settings})
        if name != "small":
            raise RuntimeError(f"Unknown model ({name})\nsee list_models()")
        return small_net(settings["in_chans"], settings["num_classes"])

    def get_model(name: str, **settings: Any) -> nn.Module:
        calls.append({"name": name, **settings})
        return small_net(3, settings["num_classes"])

    timm, torchvision, models = ModuleType("timm"), ModuleType("torchvision"), ModuleType("torchvision.models")
    timm.create_model, models.get_model = create_model, get_model  # type: ignore[attr-defined]
    for module in (timm, torchvision, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_timm_is_asked_for_a_network_without_weights(asked: list[dict[str, Any]]) -> None:
    net = build("timm:small", channels=1, outputs=7)
    assert asked == [{"name": "small", "pretrained": False, "in_chans": 1, "num_classes": 7}]
    assert net(torch.zeros(2, 1, 16, 16)).shape == (2, 7)
    again, other = build("timm:small", channels=1, outputs=7), build("timm:small", channels=1, outputs=7, seed=1)
    first, same, differs = (next(found.parameters()) for found in (net, again, other))
    assert torch.equal(first, same)
    assert not torch.equal(first, differs)


def test_torchvision_is_asked_for_a_network_without_weights(asked: list[dict[str, Any]]) -> None:
    assert build("torchvision:small")(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert asked == [{"name": "small", "weights": None, "num_classes": 5}]
    grey = build("torchvision:small", channels=1).get_submodule("0.0")
    assert isinstance(grey, nn.Conv2d)
    assert (grey.in_channels, grey.out_channels, grey.stride, grey.padding) == (1, 4, (2, 2), (1, 1))
    assert grey.bias is None


def test_a_transformer_is_built_for_the_size_of_the_images(asked: list[dict[str, Any]]) -> None:
    class Fixed(nn.Linear):
        """Takes images of one size."""

        def __init__(self, size: int) -> None:
            super().__init__(1, 1)
            self.image_size, self.pretrained_cfg = size, {"fixed_input_size": True, "input_size": (3, size, size)}

    def make(name: str, *, img_size: int = 224, image_size: int = 224, **_: Any) -> nn.Module:
        return Fixed(min(img_size, image_size))

    sys.modules["timm"].create_model = make  # type: ignore[attr-defined]
    sys.modules["torchvision.models"].get_model = make  # type: ignore[attr-defined]
    for name in ("timm:vit", "torchvision:vit_b_16"):
        assert [build_net(name, in_channels=3, image_size=n, num_outputs=1, seed=0).image_size for n in (224, 64)] == [
            224,
            64,
        ]
    assert asked == []


@pytest.mark.compat
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:convnext_atto", "torchvision:vit_b_16"])
def test_real_networks_for_images_of_another_size(name: str, size: int) -> None:
    pytest.importorskip(name.partition(":")[0], exc_type=ImportError)
    net = build_net(name, in_channels=3, image_size=size, num_outputs=4, seed=0).eval()
    assert net(torch.zeros(1, 3, size, size)).shape == (1, 4)


@pytest.mark.usefixtures("asked")
def test_a_library_network_takes_the_regression_head() -> None:
    net = build("timm:small+mlp", outputs=1).eval()
    assert [layer.out_features for layer in net.modules() if isinstance(layer, nn.Linear)] == [512, 512, 1]
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 1)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_trained_weights_come_from_a_file(suffix: str, tmp_path: Path) -> None:
    trained, path = build("timm:small", seed=1), tmp_path / f"trained{suffix}"
    if suffix == ".pt":
        torch.save(trained.state_dict(), path)
    else:
        save_file(trained.state_dict(), path)
    net = build("timm:small")
    fill(net, load_weights(path), "does not fit")
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(net(x), trained(x))
    with pytest.raises(CheckpointError, match="weights of 5 do not fit: .*size mismatch"):
        fill(build("timm:small", outputs=7), load_weights(path), "weights of 5 do not fit")


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:smal", r"model timm:smal cannot be built with .*: Unknown model \(smal\)"),
        ("timm:hf-hub:someone/net", "timm:hf-hub:someone/net would be downloaded; name an architecture"),
        ("torchvision:hub:x", "would be downloaded"),
    ],
)
def test_what_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        build(name)
    assert "\n" not in str(error.value)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which libraries are looked for first; none is loaded."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [key for key in sys.modules if key.split(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    for name in [key for key in sys.modules if key.split(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_a_missing_library_is_one_line_with_the_remedy(
    name: str, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(library)])
    with pytest.raises(ModelError) as error:
        build(f"{name}:resnet18")
    assert str(error.value) == f"model {name}:resnet18 needs {name}: pip install {name}"


def test_a_torchvision_beside_another_torch_is_one_line(library: Path) -> None:
    (library / "torchvision").mkdir()
    (library / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist\\nmore')"
    )
    (library / "timm.py").write_text("import torchvision")
    for name in ("torchvision", "timm"):
        with pytest.raises(ModelError) as error:
            build(f"{name}:resnet18")
        assert str(error.value) == (
            f"model {name}:resnet18: {name} cannot be imported with torch {torch.__version__} (operator "
            "torchvision::nms does not exist); install the torchvision that belongs to this torch"
        )


def test_a_network_of_the_real_timm() -> None:
    pytest.importorskip("timm")
    net = build("timm:resnet18", channels=1, outputs=7).eval()
    assert net(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
