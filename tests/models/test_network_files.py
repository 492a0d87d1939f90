"""Whole networks in files: what they compute, batches and sizes that a file fixes, and what is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import CheckpointError, ModelError
from gankd.models import build_net
from gankd.models.cnn import Cnn
from gankd.models.contract import ImageModel, predict, predict_with_features
from gankd.models.network_files import fixed_side, holds_code, is_network_file, open_network
from gankd.seeds import rng
from gankd.tasks import Classification
from gankd.training.distill import distill
from gankd.training.lesson import DistillConfig, Lesson

WEIGHT, BIAS = torch.randn(4, 3, generator=rng(0, "w")), torch.randn(4, generator=rng(0, "b"))


def expected(x: Tensor) -> Tensor:
    """What every file here computes, for images (N, 3, H, W)."""
    return x.mean((2, 3)) @ WEIGHT.T + BIAS


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng(0, "noise"))


def write_graph(
    path: Path,
    shape: tuple[int | str, ...] = ("N", 3, "H", "W"),
    *,
    axes: tuple[int, ...] = (2, 3),
    outside: str = "",
    domain: str = "",
) -> Path:
    """An ONNX file: mean over `axes`, then a linear layer.

    Args:
        outside: file that the weight is said to be in.
        domain: set of operators of a further node.
    """
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.numpy_helper.from_array
    weight = numbers(WEIGHT.numpy(), "weight")
    if outside:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=outside)
    parts = [weight, numbers(BIAS.numpy(), "bias"), numbers(torch.tensor(axes).numpy(), "axes")]
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "weight", "bias"], ["logits"], transB=1),
    ]
    if domain:
        nodes.append(helper.make_node("Sharpen", ["logits"], ["more"], domain=domain))
    kind = onnx.TensorProto.FLOAT
    taken = helper.make_tensor_value_info("images", kind, shape)
    given = helper.make_tensor_value_info("logits", kind, (shape[0], 4))
    graph = helper.make_graph(nodes, "g", [taken], [given], parts)
    opsets = [helper.make_opsetid(name, 18 if not name else 1) for name in dict.fromkeys(("", domain))]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.fc.load_state_dict({"weight": WEIGHT, "bias": BIAS})

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def write_script(path: Path) -> Path:
    torch.jit.script(Plain()).save(str(path))
    return path


def write_program(path: Path, *, dynamic: bool = True) -> Path:
    shapes: Any = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(Plain().eval(), (noise(3, 3, 8, 8),), dynamic_shapes=shapes), path)
    return path


def test_which_names_are_files() -> None:
    assert all(map(is_network_file, ("big.onnx", "/a/b.pt", "net.pt2", "x.torchscript")))
    assert not any(map(is_network_file, ("resnet20", "vit_tiny+mlp", "timm:resnet18.a1_in1k", "my.nets:Big")))
    assert [holds_code(name) for name in ("a.onnx", "a.pt", "a.pt2", "resnet20")] == [False, True, True, False]


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.mark.parametrize("write", [write_graph, write_script, write_program])
def test_a_file_computes_what_it_computes_elsewhere(write: Any, tmp_path: Path) -> None:
    suffix = {write_graph: "onnx", write_script: "pt", write_program: "pt2"}[write]
    net = build_net(str(write(tmp_path / f"n.{suffix}")), in_channels=3, image_size=8, num_outputs=4, seed=0)
    for count in (1, 5):
        x = noise(count, 3, 8, 8)
        torch.testing.assert_close(net.train()(x), expected(x))  # whatever mode it is told
    assert net.eval()(noise(300, 3, 8, 8)).shape == (300, 4)  # more than one pass


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_a_file_for_batches_of_one_size_gets_them(count: int, tmp_path: Path) -> None:
    x = noise(count, 3, 8, 8)
    for path in (
        write_graph(tmp_path / "n.onnx", (3, 3, 8, 8)),
        write_program(tmp_path / "n.pt2", dynamic=False),
    ):
        net = open_network(str(path))
        torch.testing.assert_close(net(x), expected(x))
        assert fixed_side(str(path)) == 8


def test_channels_last_as_tensorflow_has_them(tmp_path: Path) -> None:
    net = open_network(str(write_graph(tmp_path / "n.onnx", ("N", 16, 16, 3), axes=(1, 2))))
    x = noise(2, 3, 16, 16)
    torch.testing.assert_close(net(x), expected(x))
    assert net.image_sides == (16, 16)


def test_the_content_of_a_file_is_part_of_its_description(tmp_path: Path) -> None:
    one = write_graph(tmp_path / "a.onnx")
    before = repr(open_network(str(one)))
    copy = tmp_path / "b.onnx"
    copy.write_bytes(one.read_bytes())
    assert repr(open_network(str(copy))) == before
    write_graph(one, (2, 3, 8, 8))
    assert repr(open_network(str(one))) != before


def test_weights_in_a_file_beside_the_graph(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "n.onnx", outside="weights.bin")
    with pytest.raises(ModelError, match="has weights in weights.bin, which is missing; copy that file too"):
        open_network(str(path))
    (tmp_path / "weights.bin").write_bytes(WEIGHT.numpy().tobytes())
    net = open_network(str(path))
    torch.testing.assert_close(net(noise(2, 3, 8, 8)), expected(noise(2, 3, 8, 8)))
    (tmp_path / "weights.bin").write_bytes((WEIGHT + 1).numpy().tobytes())
    assert repr(open_network(str(path))) != repr(net)


@pytest.mark.parametrize("outside", ["../weights.bin", "/etc/hostname", "link.bin"])
def test_weights_outside_of_the_folder_are_never_read(outside: str, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(WEIGHT.numpy().tobytes())
    os.symlink(tmp_path / "weights.bin", folder / "link.bin")
    with pytest.raises(ModelError, match="outside of its folder, which is never read"):
        open_network(str(write_graph(folder / "n.onnx", outside=outside)))


def refusal(path: Path) -> str:
    with pytest.raises((ModelError, CheckpointError)) as error:
        open_network(str(path))(noise(2, 3, 8, 8))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_refused_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    assert refusal(path) == f"no file {path}, which teacher.model names"
    path.write_bytes(b"no graph at all")
    assert "is not an ONNX graph, or is truncated" in refusal(path)
    assert "uses the operator my.ops:Sharpen, which is not part of ONNX" in refusal(write_graph(path, domain="my.ops"))
    assert "expected one input of float images (N, C, H, W)" in refusal(write_graph(path, ("N", 3, 8), axes=(2,)))
    assert "fails on images (2, 3, 8, 8)" in refusal(write_graph(path, ("N", 3, 16, 16)))
    with pytest.raises(ModelError, match="takes images of 16xany pixels; expected square ones"):
        fixed_side(str(write_graph(path, ("N", 3, 16, "W"))))
    torch.save(Plain().state_dict(), tmp_path / "state.pt")
    assert "cannot be read as a TorchScript archive" in refusal(tmp_path / "state.pt")
    assert "a state_dict is given as teacher.weights" in refusal(tmp_path / "state.pt")


def test_without_the_libraries_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_graph(tmp_path / "n.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert refusal(path).endswith("pip install 'gankd[onnx]'")


def test_losses_of_outputs_learn_from_a_file_and_others_say_why_not(tmp_path: Path) -> None:
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8, generator=rng(0, "pixels"))
    data, engine = LabelledImages(images, torch.arange(8) % 4, Classification(num_classes=4)), Engine.pick(8)
    config = DistillConfig(updates=1, batch_size=4)
    for path in (write_graph(tmp_path / "n.onnx"), write_script(tmp_path / "n.pt")):
        teacher = ImageModel.for_data(open_network(str(path)), data)
        torch.testing.assert_close(predict(teacher, images, engine), expected(teacher.normalise(images)))
        outputs, features = predict_with_features(teacher, images, engine)
        assert torch.equal(features, outputs)
        for loss, fits in (("KD", True), ("DKD", True), ("FitNet", False), ("CRD", False), ("SRRL", False)):
            student = ImageModel.for_data(Cnn(3, 8, 4, width=4), data)
            if fits:
                distill(student, data, data, config, engine, 0, lesson=Lesson(loss, teacher))
            else:
                with pytest.raises(ModelError, match="only its outputs can be read, no feature maps and no"):
                    distill(student, data, data, config, engine, 0, lesson=Lesson(loss, teacher))
