"""Networks of the hub in the settings of a run: what a repository says of itself is used, and code never."""

import json
from pathlib import Path

import pytest
import torch

from gankd.config import override
from gankd.errors import CheckpointError, ConfigError, HubError
from gankd.models.contract import ImageModel
from gankd.models.files import save_model
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.code import named_code
from gankd.recipes.config import TeacherConfig
from gankd.recipes.from_hub import pulled, pulled_generator
from gankd.tasks import Classification


def recipe(*changes: str) -> Recipe:
    return override(RECIPES["digits"](), changes)


def repository(folder: Path, **files: bytes | str) -> Path:
    """A repository in a folder that stands for the hub."""
    for name, content in files.items():
        path = folder / "some/net" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "some/net"


def test_timm_says_how_its_network_reads_images(local_hub: Path) -> None:
    own = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "input_size": [3, 160, 160]}
    described = json.dumps({"architecture": "resnet18d", "pretrained_cfg": own, "label_names": ["cat", "dog"]})
    root = repository(local_hub, model_dot_safetensors=b"", config_dot_json=described)
    found = pulled(recipe("teacher.model=hf:some/net")).teacher
    assert found == TeacherConfig(
        **{
            **vars(recipe().teacher),
            "model": "timm:resnet18d",
            "weights": str(root / "model.safetensors"),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.2, 0.2, 0.2),
            "input_size": 160,
            "class_names": ("cat", "dog"),
        }
    )
    mine = pulled(recipe("teacher.model=hf:some/net", "teacher.mean=0.1", "teacher.input_size=96")).teacher
    assert (mine.mean, mine.input_size, mine.std) == ((0.1,), 96, (0.2, 0.2, 0.2))


def test_a_graph_needs_no_description(local_hub: Path) -> None:
    root = repository(local_hub, net_dot_onnx=b"")
    assert pulled(recipe("teacher.model=hf:some/net")).teacher.model == str(root / "net.onnx")


def test_weights_are_read_for_a_network_that_is_named(local_hub: Path) -> None:
    root = repository(local_hub, a_dot_safetensors=b"", b_dot_safetensors=b"")
    found = pulled(recipe("teacher.model=resnet20", "teacher.weights=hf:some/net/b.safetensors")).teacher
    assert found.weights == str(root / "b.safetensors")
    with pytest.raises(HubError, match="has 2 such files; name one"):
        pulled(recipe("teacher.model=resnet20", "teacher.weights=hf:some/net"))


def test_networks_that_gankd_cannot_build_are_refused(local_hub: Path) -> None:
    root = repository(local_hub, model_dot_safetensors=b"", config_dot_json='{"architectures": ["ViTModel"]}')
    with pytest.raises(CheckpointError, match="hf:some/net is a network of transformers; give its architecture"):
        pulled(recipe("teacher.model=hf:some/net"))
    model = ImageModel(torch.nn.Flatten(), size=8, mean=torch.zeros(1), std=torch.ones(1))
    save_model(root / "model.safetensors", model, "nets_of_a_stranger:Net", Classification(num_classes=64))
    with pytest.raises(CheckpointError, match="own code .nets_of_a_stranger:Net., which is not run"):
        pulled(recipe("teacher.model=hf:some/net"))


def test_a_pipeline_comes_without_code_and_variants(local_hub: Path) -> None:
    root = repository(
        local_hub,
        model_index_dot_json="{}",
        unet__config_dot_json="{}",
        unet__weights_dot_safetensors=b"",
        unet__weights_dot_fp16_dot_safetensors=b"",
    )
    assert pulled_generator("hf:some/net") == f"diffusers:{root}"
    (root / "model_index.json").unlink()
    with pytest.raises(HubError, match=r"has no generator.safetensors or .npz"):
        pulled_generator("hf:some/net")
    (root / "images.npz").touch()
    assert pulled_generator("hf:some/net") == str(root / "images.npz")


def test_names_of_the_hub_are_not_code() -> None:
    stored = {"teacher": {"model": "hf:some/net"}, "gan": {"external": "hf:some/net"}}
    assert named_code(stored) == set()
    assert named_code({"gan": {"external": "mine:make"}}) == {"mine:make"}


def test_a_student_is_not_taken_from_the_hub() -> None:
    with pytest.raises(ConfigError, match="which is not trained; .* to use it: gankd predict"):
        recipe("student.model=hf:some/net")
    with pytest.raises(ConfigError, match="leave teacher.weights out"):
        recipe("teacher.model=hf:some/net", "teacher.weights=a.safetensors")
