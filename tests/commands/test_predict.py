"""Exported students of every format, run as on a device, by `gankd predict` and on a clock."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.bench.timing import Timing, timed
from gankd.commands.export import Exported, export
from gankd.commands.latency import Latency
from gankd.commands.predict import predict
from gankd.errors import ModelError
from gankd.models.contract import ImageModel
from gankd.models.exported import Limit, open_exported, run_by_onnx, to_torch_export, write_onnx
from gankd.models.files import save_model
from gankd.models.int8 import to_int8
from gankd.models.portable import Portable
from gankd.recipes import Recipe
from gankd.recipes.experiment import Experiment
from gankd.runs import Run
from gankd.tasks import Classification

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Outcome = tuple[int, str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def graph(digits_run: tuple[Recipe, Path], folder: Path) -> Exported:
    """A classifier as ONNX."""
    return export(*digits_run, folder / "digits.onnx")


@pytest.fixture(scope="module")
def photos(folder: Path, digits_run: tuple[Recipe, Path]) -> Path:
    """50 photographs of digits, of odd sizes: half of them grey, half JPEG, some turned by their EXIF tag."""
    target, random = folder / "photos", np.random.default_rng(0)
    target.mkdir()
    digits = Experiment.open(digits_run[0], Run(digits_run[1])).splits.test.images[:50, 0].numpy()
    for number, digit in enumerate(digits):
        side = int(random.integers(9, 90))
        image = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
        paper = Image.new("L", (side + int(random.integers(40)), side + int(random.integers(40))), 30)
        paper.paste(image, (paper.width // 2 - side // 2, paper.height // 2 - side // 2))
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 5 == 0 else 1
        name = f"{number:02d}.{'jpg' if number % 4 < 2 else 'png'}"
        paper.convert("RGB" if number % 2 else "L").save(target / name, exif=exif)
    return target


def test_files_do_not_tell_where_they_were_written(
    graph: Exported, digits_run: tuple[Recipe, Path], folder: Path
) -> None:
    """The exporters note the path of each line of code that a node comes from."""
    traced = export(*digits_run, folder / "traced.pt2").path
    contents = [
        graph.path.read_bytes(),
        *(zipfile.ZipFile(traced).read(name) for name in zipfile.ZipFile(traced).namelist()),
    ]
    assert any(b"bicubic" in content or b"conv" in content for content in contents)
    assert not any(path in content for content in contents for path in (b"portable.py", str(Path.cwd()).encode()))


def test_plain_onnxruntime_gives_the_answers_of_predict(graph: Exported, photos: Path) -> None:
    """As on a device: whole photographs of any size, without this package."""
    rows = {Path(row.photo).name: row for row in predict(graph.path, [photos]).rows}
    session = onnxruntime.InferenceSession(str(graph.path))
    assert len(rows) == 50
    for path in photos.iterdir():
        with Image.open(path) as opened:
            turned = opened.transpose(Image.Transpose.ROTATE_270) if opened.getexif().get(0x0112) == 6 else opened
            pixels = np.asarray(turned.convert("L"))
        (outputs,) = session.run(None, {"image": pixels[None, None]})
        facts = rows[path.name].facts
        assert str(outputs[0].argmax()) == facts["class"]
        assert outputs[0].max() == pytest.approx(facts["probability"], abs=1e-4)


def test_the_file_is_compared_with_pytorch_and_described(graph: Exported, digits_run: tuple[Recipe, Path]) -> None:
    assert graph.check.difference < 1e-5
    assert graph.check.metrics["top1"] == pytest.approx(graph.check.expected["top1"])
    assert graph.check.low < graph.check.metrics["top1"] < graph.check.high
    found = open_exported(graph.path)
    assert (found.card["arm"], found.card["seed"]) == (graph.arm, graph.seed)
    splits = Experiment.open(digits_run[0], Run(digits_run[1])).splits
    limit = found.limit
    assert limit is not None
    assert (limit.risk, limit.images) == (0.05, len(splits.val))
    outputs = torch.from_numpy(found.run(splits.test.images.numpy()))
    wrong = outputs.argmax(1) != splits.test.labels
    assert limit.missed == pytest.approx((wrong & (outputs.amax(1) > limit.limit)).double().mean().item())
    assert limit.unanswered == pytest.approx((outputs.amax(1) <= limit.limit).double().mean().item())
    page = graph.page.read_text()
    for part in ("# digits.onnx", "Licence: CC BY", "top1 ", "| real, equal updates |", graph.limit, "Intended use"):
        assert part in page


def test_formats_of_a_value_agree(
    angles_run: tuple[Recipe, Path], folder: Path, gankd: Callable[..., Outcome], refused: Callable[..., str]
) -> None:
    plain = export(*angles_run, folder / "angles.safetensors")
    code, out, _ = gankd("export", angles_run[1], "--format", "torch-export", "--to", folder / "angles.pt2")
    assert code == 0
    assert "in PyTorch" in out
    grey = np.random.default_rng(1).integers(256, size=(61, 40), dtype=np.uint8)
    photo = folder / "grey.png"
    Image.fromarray(grey).save(photo)
    assert "can run code" in refused("predict", folder / "angles.pt2", photo)
    one, two = predict(plain.path, [photo]).rows[0], predict(folder / "angles.pt2", [photo], trust=True).rows[0]
    assert one.facts["value"] == pytest.approx(two.facts["value"], abs=1e-3)
    limit = open_exported(plain.path).limit
    assert limit is not None
    assert one.facts["high"] - one.facts["value"] == pytest.approx(limit.limit)
    assert one.facts["value"] - one.facts["low"] == pytest.approx(limit.limit)
    program: torch.nn.Module = torch.export.load(folder / "angles.pt2").module()  # without this package
    assert program(torch.from_numpy(grey)[None, None]).item() == pytest.approx(two.facts["value"], abs=1e-3)
    (folder / "damaged.pt2").write_bytes((folder / "angles.pt2").read_bytes()[:5000])
    assert "is not a readable file of torch.export" in refused("predict", folder / "damaged.pt2", photo, "--trust")


def test_int8_computes_convolutions_in_whole_numbers(graph: Exported, digits_run: tuple[Recipe, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    images = Experiment.open(digits_run[0], Run(digits_run[1])).splits.train.images.numpy()
    plain = graph.path.read_bytes()
    quantised = to_int8(plain, images)
    nodes = onnx.load_model_from_string(quantised).graph.node
    for node in nodes:
        if node.op_type in ("Conv", "Gemm"):
            assert all("DequantizeLinear" in name for name in node.input[:2])
    assert {node.op_type for node in nodes} >= {"Conv", "Gemm", "QuantizeLinear"}
    ours, exact = (run_by_onnx(each)[1](images) for each in (quantised, plain))
    assert 1e-7 < np.abs(ours - exact).max() < 0.05


class Choosing(torch.nn.Module):
    """A network whose path depends on the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2] if x.sum() > 3 else x.flatten(1)[:, 2:4]


def test_a_network_that_cannot_be_a_graph(capfd: pytest.CaptureFixture[str]) -> None:
    model = ImageModel(Choosing(), size=8, mean=torch.zeros(1), std=torch.ones(1))
    with pytest.raises(
        ModelError, match="^my_nets:Choosing has no counterpart in torch.export .*; write its forward"
    ) as error:
        to_torch_export(Portable(model, Classification(num_classes=2)), 1, "my_nets:Choosing")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_formats_that_do_not_fit(digits_run: tuple[Recipe, Path], refused: Callable[..., str]) -> None:
    run = digits_run[1]
    assert "--int8 needs --format onnx, got safetensors" in refused("export", run, "--int8", "--to", "a.safetensors")
    assert "ends in .onnx, got a.pt2" in refused("export", run, "--format", "onnx", "--to", "a.pt2")
    assert "--to must end in .safetensors, .onnx, .pt2 or .pte, got a.bin" in refused("export", run, "--to", "a.bin")


# --- answers ------------------------------------------------------------------------------------------------


def stored(path: Path, limit: Limit | None) -> Path:
    """A student that is sure of class 1 with 0.75 on dark images, and of nothing on bright ones."""
    linear = torch.nn.Linear(64, 2)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[0] = 1 / 64
        linear.bias.copy_(torch.tensor([0.0, 1.0986]))
    net = torch.nn.Sequential(torch.nn.Flatten(), linear)
    model = ImageModel(net, size=8, mean=torch.zeros(1), std=torch.ones(1) / 1.0986)
    task = Classification(num_classes=2, class_names=("cat", "dog"))
    save_model(path, model, "nets_of_a_test:Net", task, {"limit": None if limit is None else vars(limit)})
    return path


@pytest.fixture
def two(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dark photograph and a bright one."""
    code = "from torch import nn\ndef Net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    (tmp_path / "nets_of_a_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "black").save(tmp_path / "photos/dark.png")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "photos/white.png")
    return tmp_path / "photos"


LIMIT = Limit(limit=0.7, risk=0.05, images=100, missed=0.04, unanswered=0.3)


def test_a_class_up_to_the_limit_is_left_open(two: Path, tmp_path: Path, gankd: Callable[..., Outcome]) -> None:
    model = stored(tmp_path / "s.safetensors", LIMIT)
    _, out, _ = gankd("predict", model, two, "--trust", "--json")
    dark, white = json.loads(out)["predictions"]
    assert (dark["answer"], dark["class"], dark["sure"]) == ("dog", "dog", True)
    assert dark["probability"] == pytest.approx(0.75, abs=1e-4)
    assert (white["answer"], white["sure"]) == ("cannot tell", False)
    assert white["probability"] == pytest.approx(0.5, abs=1e-4)
    _, out, _ = gankd("predict", model, two, "--trust", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["answer"] for row in rows] == ["dog", "cannot tell"]
    text = " ".join(predict(model, [two], trust=True).text.split())
    assert "cannot tell up to a probability of 0.7: at most 5 % get a wrong class" in text
    assert "of the test images 4.0 %, and 30.0 % get none" in text
    without = predict(stored(tmp_path / "t.safetensors", None), [two / "dark.png"], trust=True)
    assert without.rows[0].sure
    assert "no limit: export sets one on at least 19 validation images" in without.text


def test_what_cannot_be_predicted(
    two: Path, tmp_path: Path, graph: Exported, refused: Callable[..., str], gankd: Callable[..., Outcome]
) -> None:
    (tmp_path / "note.jpg").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").touch()
    (tmp_path / "bad.onnx").write_bytes(graph.path.read_bytes()[:3000])
    assert "first note.jpg: not an image in a known format" in refused("predict", graph.path, "note.jpg")
    assert "photographs: 1 of 3 images cannot be read" in refused("predict", graph.path, two, "note.jpg")
    assert "empty holds no images (it is empty)" in refused("predict", graph.path, "empty")
    assert "texts holds no images (only other files, such as a.txt)" in refused("predict", graph.path, "texts")
    assert "no file or folder nowhere" in refused("predict", graph.path, "nowhere")
    assert "bad.onnx is not a readable ONNX file" in refused("predict", "bad.onnx", two)
    assert "no file none.onnx; write one with: gankd export" in refused("predict", "none.onnx", two)
    assert "not an exported student" in refused("predict", "note.jpg", two)
    model = stored(tmp_path / "s.safetensors", None)
    assert "code that is not part of gankd" in refused("predict", model, two)
    write_onnx(tmp_path / "no_card.onnx", graph.path.read_bytes(), {"size": 8, "limit": {"limit": "none"}})
    assert "was not written by gankd export" in refused("predict", "no_card.onnx", two)
    assert gankd("predict", graph.path, two / "dark.png")[0] == 0  # a colour photograph for a grey student


# --- time ---------------------------------------------------------------------------------------------------


def test_times_and_a_busy_machine() -> None:
    found = timed(lambda: None, 0.0)
    assert len(found.times) == 20
    quiet = Timing(tuple(map(float, range(1, 102))), wall=100.0, cpu=99.0)
    assert quiet.percentiles == [51, 91, 100]
    busy = replace(quiet, cpu=50.0)
    assert (quiet.busy, busy.busy) == (False, True)
    latency = Latency(Path("s.onnx"), (32, 32), 1, {1: quiet, 32: busy})
    assert "busy machine: 2.0 times the CPU time passed" in latency.text
    assert "busy" not in replace(latency, timings={1: quiet}).text
    assert latency.to_dict()["timings"][1]["p90_ms"] == 91


def test_latency_is_measured(graph: Exported, gankd: Callable[..., Outcome], refused: Callable[..., str]) -> None:
    code, out, _ = gankd("bench-latency", graph.path, "--batches", "1,3", "--side", 20, "--seconds", 0, "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (found["side"], found["threads"]) == (20, 1)
    assert [row["batch"] for row in found["timings"]] == [1, 3]
    assert "--threads must be at least 1, got 0" in refused("bench-latency", graph.path, "--threads", 0)
    assert "--batches must be at least 1, got 0" in refused("bench-latency", graph.path, "--batches", 0)
