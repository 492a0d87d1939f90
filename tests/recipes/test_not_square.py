"""A whole run on images that are not square: generator, teacher, feature maps, students, report, export, labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.config import override
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.models import build_net, new_model
from gankd.models.files import load_model
from gankd.recipes import RECIPES
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import load_generator
from gankd.runs import Run
from gankd.storage import read_json
from gankd.tasks import Classification
from gankd.training.distill import distill
from gankd.training.lesson import DistillConfig, Lesson


def folder(root: Path) -> Path:
    """Photographs of 40x70 pixels in two classes, bright above or below."""
    random = np.random.default_rng(0)
    for number in range(60):
        pixels = random.integers(0, 120, (40, 70, 3), dtype=np.uint8)
        half = number % 2
        pixels[20 * half : 20 * half + 20] += 120
        path = root / ("top", "bottom")[half] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def test_a_run(tiny: tuple[str, ...], tmp_path: Path, gankd: Callable[..., tuple[int, str, str]]) -> None:
    root, out = folder(tmp_path / "photos"), tmp_path / "run"
    settings = [word for item in tiny if not item.startswith("data.") for word in ("--set", item)]
    more = (
        "teacher.augment=rotate,crop,trivial,erase",
        "gan.diff_augment=translation,cutout",
        "student.loss=KD + FitNet",
    )
    settings += [word for item in (*more, "seeds=1", "teacher.updates=150") for word in ("--set", item)]
    arms = ("--arms", "real_matched,adjusted_kd")
    code, _, err = gankd("run", "folder", "--data", root, "--size", "16x24", "--out", out, *arms, *settings)
    assert code == 0, err
    (generator,) = out.glob("gan-*/generator.safetensors")
    images = load_generator(generator).sample(torch.arange(2), generator=torch.Generator())
    assert images.shape == (2, 3, 16, 24)
    assert [arm["arm"] for arm in read_json(out / "results.json")["arms"]] == ["real_matched", "adjusted_kd"]

    code, _, err = gankd("export", out, "--to", tmp_path / "student.safetensors")
    assert code == 0, err
    model, _ = load_model(tmp_path / "student.safetensors")
    assert model.sides == (16, 24)
    code, text, err = gankd("predict", tmp_path / "student.safetensors", root / "top", "--json")
    assert code == 0, err
    assert "top" in text


@pytest.mark.parametrize(
    "name", ["cnn4", "resnet8", "vgg8", "vit_tiny", "mobilenet_v2", "shufflenet_v2", "densenet121"]
)
def test_networks_and_their_maps(name: str) -> None:
    images = torch.randint(256, (4, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = LabelledImages(images, torch.arange(4) % 2, Classification(num_classes=2))
    teacher = new_model(name, data, 1)
    student = new_model("cnn4", data, 0)
    config = DistillConfig(updates=1, batch_size=2)
    distill(student, data, data, config, Engine.pick(32), 0, lesson=Lesson("KD + FitNet + SP", teacher))


def test_a_loss_that_turns_images_needs_square_ones() -> None:
    data = LabelledImages(
        torch.zeros(4, 3, 16, 24, dtype=torch.uint8), torch.arange(4) % 2, Classification(num_classes=2)
    )
    student, teacher = new_model("cnn4", data, 0), new_model("cnn8", data, 1)
    with pytest.raises(
        ConfigError, match="turns images by 90 degrees, so they must be square, got 16x24; take another"
    ):
        distill(
            student,
            data,
            data,
            DistillConfig(updates=1, batch_size=2),
            Engine.pick(16),
            0,
            lesson=Lesson("SSKD", teacher),
        )


def test_what_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    root = folder(tmp_path / "photos")
    said = refused("plan", "folder", "--data", root)
    assert "expected square images, got 70x40 pixels; add --size 32 to crop and resize, or --size 40x72 to keep" in said
    assert "--size takes a side in pixels, or HEIGHTxWIDTH such as 48x64, got '16:24'" in refused(
        "plan", "folder", "--data", root, "--size", "16:24"
    )
    assert "so the longer side must be a multiple of 8" in refused("plan", "folder", "--data", root, "--size", "32x36")
    recipe = override(RECIPES["turntable"](), ["data.size=32x64"])
    with pytest.raises(ConfigError, match="data.size=32x64: images of turntable are square; give one side"):
        Experiment.open(recipe, Run(tmp_path / "x"))


def test_the_users_network_gets_height_and_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_wide.py").write_text(
        "from torch import nn\n"
        "def flat(in_chans, img_size, num_classes):\n"
        "    height, width = img_size\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * height * width, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    net = build_net("my_wide:flat", in_channels=3, image_size="16x24", num_outputs=2, seed=0)
    assert net(torch.zeros(1, 3, 16, 24)).shape == (1, 2)
