"""Generators from elsewhere: what they must give, what is refused in one line, and images that run out."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.errors import ConfigError, DataError, GankdError, ModelError
from gankd.generators.external import (
    CHUNK,
    ExternalGenerator,
    ImagePool,
    OwnFunction,
    OwnNetwork,
    check_images,
    open_external,
)
from gankd.seeds import BLOCK, rng
from gankd.tasks import Classification, Regression, Task

CLASSES = Classification(num_classes=3, class_names=("cat", "dog", "owl"))
AGES = Regression(low=0.0, high=100.0)
SHAPE = (1, 8, 8)
CPU = torch.device("cpu")
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    z_dim = 4
    def __init__(self, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(5, 64)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.scale = scale
    def forward(self, z, labels):
        x = torch.cat([labels[:, None] / 3, z], 1)
        return self.scale * torch.tanh(self.layer(x)).view(-1, 1, 8, 8)

net = Net(0.5)
bright = Net(2.0)
number = 7

def build(image_size):
    assert image_size == 8
    return Net(0.25)

def levels(labels, generator):
    noise = torch.randint(0, 50, (len(labels), 1, 8, 8), generator=generator)
    return (noise + 50 * labels.long()[:, None, None, None]).to(torch.uint8)

def unseeded(labels, generator):
    return torch.rand(len(labels), 1, 8, 8) * 2 - 1

def failing(labels, generator):
    raise KeyError("no such thing\\nand more")

def latentless():
    return nn.Identity()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExternalGenerator]:
    """Opens a generator of the module above."""
    (tmp_path / "own_generators.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_generators", raising=False)
    return lambda name, task=CLASSES, shape=SHAPE: open_external(f"own_generators:{name}", task, shape, CPU)


LABELS = torch.tensor([0, 2, 1, 1])


# --- own code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Net", "net", "build", "levels", "unseeded"])
def test_own_code_samples_from_the_seed_alone(own: Callable[..., ExternalGenerator], name: str) -> None:
    generator = own(name)
    assert isinstance(generator, OwnFunction if name in ("levels", "unseeded") else OwnNetwork)
    before = torch.get_rng_state()
    images = generator.sample(LABELS, generator=rng(0, "x"))
    assert images.dtype == torch.uint8
    assert images.shape == (4, 1, 8, 8)
    assert torch.equal(images, generator.sample(LABELS, generator=rng(0, "x")))
    assert not torch.equal(images, generator.sample(LABELS, generator=rng(1, "x")))
    assert torch.equal(before, torch.get_rng_state())
    sweep = generator.sweep(torch.tensor([1, 1, 2]), 2, generator=rng(0, "x"))
    assert sweep.shape == (2, 3, 1, 8, 8)
    assert torch.equal(sweep[:, 0], sweep[:, 1])  # one latent along a row
    assert not torch.equal(sweep[0], sweep[1])


def test_floats_become_levels(own: Callable[..., ExternalGenerator]) -> None:
    net, labels = own("net"), torch.tensor([0, 2])
    z = torch.randn(2, 4, generator=rng(0, "x"))
    expected = 0.5 * torch.tanh(torch.cat([labels[:, None] / 3, z], 1))
    found = net.sample(labels, generator=rng(0, "x")).flatten(1)[:, :5]
    torch.testing.assert_close(found.float(), ((expected + 1) * 127.5).round(), atol=1, rtol=0)


def test_the_fingerprint_knows_code_and_weights(
    own: Callable[..., ExternalGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = {name: own(name).fingerprint for name in ("net", "levels", "unseeded")}
    assert len(set(prints.values())) == 3
    assert own("net").fingerprint == prints["net"]
    module = sys.modules["own_generators"]
    with torch.no_grad():
        module.net.layer.bias += 1
    assert own("net").fingerprint != prints["net"]
    (tmp_path / "own_generators.py").write_text(CODE.replace("0, 50", "0, 49"))
    monkeypatch.delitem(sys.modules, "own_generators")
    assert own("levels").fingerprint != prints["levels"]


@pytest.mark.parametrize("name", ["net", "levels"])
def test_the_fingerprint_knows_the_files_that_own_code_names(
    own: Callable[..., ExternalGenerator], tmp_path: Path, name: str
) -> None:
    plain = own(name).fingerprint
    thing, weights = getattr(sys.modules["own_generators"], name), tmp_path / "weights.bin"
    thing.files = [str(weights)]
    with pytest.raises(ModelError, match=f"own_generators:{name}: no file .*weights.bin, which its attribute"):
        own(name)
    weights.write_bytes(b"1")
    first = own(name).fingerprint
    assert own(name).fingerprint == first != plain
    weights.write_bytes(b"2")
    assert own(name).fingerprint != first
    weights.write_bytes(b"1")
    assert own(name).fingerprint == first
    for wrong in (str(weights), [3]):
        thing.files = wrong
        with pytest.raises(ModelError, match="expected a list of paths as its attribute files, got "):
            own(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bright", r"generator own_generators:bright gives floats from -.* to .*, expected \[-1, 1\]; end it in tanh"),
        ("failing", "generator own_generators:failing failed: KeyError: 'no such thing"),
    ],
)
def test_what_own_code_does_wrong_is_one_line(own: Callable[..., ExternalGenerator], name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        own(name).sample(LABELS, generator=rng(0, "x"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("own_generators:nett", ModelError, "no 'nett' in module own_generators; did you mean Net"),
        ("own_generators:number", ModelError, "own_generators:number is a int, expected a class or function"),
        ("own_generators:latentless", ModelError, "needs an attribute z_dim, the size of its latent, got None"),
        ("no_such_module:x", ModelError, "cannot import 'no_such_module'"),
        ("no/such/folder", ConfigError, "no folder or file no/such/folder, and not of the form module:name or diff"),
        ("diffusers:nowhere", ModelError, "no model_index.json there; expected the folder of a pipeline"),
    ],
)
def test_what_cannot_be_opened(
    own: Callable[..., ExternalGenerator], source: str, error: type[GankdError], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_external(source, CLASSES, SHAPE, CPU)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([1, 2], r"gives a list, expected a tensor of images \(2, 1, 8, 8\)"),
        (torch.zeros(2, 1, 16, 16), r"gives images \(2, 1, 16, 16\) for 2 labels, expected \(2, 1, 8, 8\)"),
        (torch.zeros(3, 1, 8, 8), r"gives images \(3, 1, 8, 8\) for 2 labels"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "gives images of type torch.int64, expected uint8, or floats"),
        (torch.full((2, 1, 8, 8), torch.nan), "gives floats from nan to nan"),
        (torch.full((2, 1, 8, 8), 255.0), "gives floats from 255 to 255"),
    ],
)
def test_images_of_the_wrong_kind(images: object, message: str) -> None:
    with pytest.raises(ModelError, match=f"^G {message}"):
        check_images(images, 2, SHAPE, "G")


# --- a pool of images ---------------------------------------------------------------------------------------


def write_images(folder: Path, counts: dict[str, int], size: int = 16) -> Path:
    """Class folders of RGB images, each of one grey level of its own."""
    level = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (size, size), (level, level, level)).save(folder / name / f"{number}.png")
            level += 2
    return folder


def values_file(path: Path, labels: list[float]) -> Path:
    images = np.zeros((len(labels), 8, 8), np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None, None]
    np.savez(path, images=images, label=np.array(labels))
    return path


def pool_of(source: Path, task: Task, shape: tuple[int, int, int] = SHAPE) -> ImagePool:
    pool = open_external(str(source), task, shape, CPU)
    assert isinstance(pool, ImagePool)
    return pool


def test_a_folder_gives_images_of_the_class_resized_to_the_data(tmp_path: Path) -> None:
    pool = pool_of(write_images(tmp_path / "images", {"owl": 5, "dog": 4}), CLASSES, (3, 8, 8))
    assert pool.images.shape == (9, 3, 8, 8)
    assert pool.labels.bincount().tolist() == [0, 4, 5]  # by name, not by number
    labels = torch.tensor([2, 1, 2, 2, 1, 2, 2])
    images = pool.sample(labels, generator=rng(0, "x"))
    found = images[:, 0, 0, 0].tolist()
    assert [level >= 10 for level in found] == [label == 1 for label in labels.tolist()]
    assert len(set(found)) == 7  # none twice
    # more than there are: all once before any comes again
    many = pool.sample(torch.full((9,), 1), generator=rng(0, "x"))[:, 0, 0, 0]
    assert many.unique(return_counts=True)[1].sort().values.tolist() == [2, 2, 2, 3]
    assert torch.equal(images, pool.sample(labels, generator=rng(0, "x")))
    assert not torch.equal(images, pool.sample(labels, generator=rng(1, "x")))
    with pytest.raises(DataError, match="images has no image of class cat; add some"):
        pool.sample(torch.tensor([1, 0]), generator=rng(0, "x"))


def test_taking_gives_none_twice_and_then_fewer(tmp_path: Path) -> None:
    pool = pool_of(write_images(tmp_path / "images", {"owl": 5, "dog": 4}), CLASSES, (3, 8, 8))
    index = pool.take(torch.tensor([2] * 7 + [1] * 3 + [0]), generator=rng(0, "x"))
    assert len(index.unique()) == len(index) == 5 + 3
    assert pool.labels[index].tolist() == [2] * 5 + [1] * 3


def test_values_take_the_nearest_that_is_left(tmp_path: Path) -> None:
    values = [10.0, 20.0, 30.0, 40.0, 50.0, 50.0, 60.0, 70.0, 80.0, 90.0]
    pool = pool_of(values_file(tmp_path / "v.npz", values), AGES)
    assert sorted(pool.labels.tolist()) == values
    one = pool.take(torch.tensor([44.0]), generator=rng(0, "x"))
    assert pool.labels[one].tolist() == [40.0]
    for seed in range(3):
        wanted = torch.tensor([0.0, 100.0, 49.0, 51.0, 50.0, 33.0])
        index = pool.take(wanted, generator=rng(seed, "x"))
        assert len(index.unique()) == 6
        assert pool.labels[index][[0, 1, 5]].tolist() == [10.0, 90.0, 30.0]
        assert pool.labels[index][2:5].sort().values.tolist() in ([40.0, 50.0, 50.0], [50.0, 50.0, 60.0])
    assert len(pool.take(torch.full((30,), 50.0), generator=rng(0, "x"))) == 10  # all, and no more
    assert pool.sample(torch.full((30,), 50.0), generator=rng(0, "x")).shape == (30, 1, 8, 8)


@pytest.mark.parametrize(("task", "labels"), [(CLASSES, [2, 0, 1] * 3), (AGES, [10.5, 20.0, 31.25, 40.0, 50.0, 60.0])])
def test_the_authors_files_of_generated_images_are_a_pool(task: Task, labels: list[float], tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), dtype=np.uint8)
    with h5py.File(tmp_path / "subsampled_fakes.h5", "w") as file:  # as their code writes it
        file.create_dataset("fake_images", data=images, dtype="uint8", compression="gzip")
        file.create_dataset("fake_labels", data=np.array(labels), dtype="int" if task is CLASSES else "float")
    pool = pool_of(tmp_path / "subsampled_fakes.h5", task, (3, 8, 8))
    assert sorted(zip(pool.images[:, 0, 0, 0].tolist(), pool.labels.tolist(), strict=True)) == list(enumerate(labels))


def test_matching_agrees_with_a_plain_search(tmp_path: Path) -> None:
    labels = (100 * torch.rand(60, generator=rng(0, "l"))).round(decimals=1).tolist()
    pool = pool_of(values_file(tmp_path / "v.npz", labels), AGES)
    wanted = 100 * torch.rand(50, generator=rng(0, "w"))
    index = pool.take(wanted, generator=rng(3, "x"))
    random = rng(3, "x")
    torch.randperm(60, generator=random)
    left = set(range(60))
    for number in torch.randperm(50, generator=random).tolist():
        gaps = {place: abs(pool.labels[place].item() - wanted[number].item()) for place in left}
        chosen = int(index[number])
        assert gaps[chosen] == pytest.approx(min(gaps.values()), abs=1e-4)
        left.remove(chosen)


def test_blocks_of_a_pool_do_not_depend_on_where_sampling_begins(tmp_path: Path) -> None:
    pool = pool_of(values_file(tmp_path / "v.npz", torch.linspace(0, 100, 700).tolist()), AGES)
    index = torch.randperm(700, generator=rng(0, "x"))
    sampler = pool.in_blocks(index, 5, "sample")
    for block in (2, 0, 1):  # in any order
        mine = index[block * BLOCK : (block + 1) * BLOCK]
        images = sampler(pool.labels[mine], generator=rng(5, "sample", block))
        assert torch.equal(images, pool.images[mine])


def test_pools_that_do_not_fit_the_data(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", {"owl": 4, "emu": 4})
    with pytest.raises(DataError, match="1 class unknown to the data, such as emu; expected some of cat, dog, owl$"):
        pool_of(folder, CLASSES)
    folder = write_images(tmp_path / "more", {"owl": 4, "emu": 4, "yak": 4})
    with pytest.raises(DataError, match="2 classes unknown to the data, such as emu"):
        pool_of(folder, CLASSES)
    with pytest.raises(DataError, match="outside|within"):
        pool_of(values_file(tmp_path / "v.npz", [float(n) for n in range(90, 120)]), AGES)
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(DataError, match="expected a folder, .npz or .h5 file of labelled images, got"):
        pool_of(tmp_path / "x.txt", CLASSES)
    before = pool_of(write_images(tmp_path / "b", {"owl": 4, "dog": 4}), CLASSES).fingerprint
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "b" / "owl" / "0.png")
    assert pool_of(tmp_path / "b", CLASSES).fingerprint != before


# --- pipelines ----------------------------------------------------------------------------------------------


class FakePipeline:
    """Stands in for a pipeline of diffusers: 4x4 RGB, brighter by class."""

    labels: ClassVar[dict[str, int]] = {"owl": 5, "cat": 3, "dog": 4, "emu": 0}
    calls: ClassVar[list[dict[str, object]]] = []

    @classmethod
    def from_pretrained(cls, folder: str, *, local_files_only: bool, use_safetensors: bool) -> "FakePipeline":
        assert local_files_only
        assert use_safetensors
        if (Path(folder) / "broken").exists():
            raise OSError("no weights there\nat all")
        return cls()

    def to(self, device: torch.device) -> None: ...

    def set_progress_bar_config(self, disable: bool) -> None: ...

    def __call__(
        self,
        class_labels: list[int],
        guidance_scale: float = 4.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> object:
        assert output_type == "np"
        assert len(class_labels) <= CHUNK
        self.calls.append({"class_labels": class_labels, "guidance_scale": guidance_scale})
        noise = torch.rand(len(class_labels), 4, 4, 3, generator=generator).numpy() / 10
        images = noise + np.array(class_labels)[:, None, None, None] / 10
        return type("Output", (), {"images": images})


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "diffusers", type(sys)("diffusers"))
    sys.modules["diffusers"].DiffusionPipeline = FakePipeline  # type: ignore[attr-defined]
    monkeypatch.setattr(FakePipeline, "calls", [])
    folder = tmp_path / "pipe"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 4, 4)])
def test_a_pipeline_is_asked_by_class_name_and_resized(pipeline: Path, shape: tuple[int, int, int]) -> None:
    generator = open_external(f"diffusers:{pipeline}", CLASSES, shape, CPU)
    labels = torch.arange(40) % 3
    images = generator.sample(labels, generator=rng(0, "x"))
    assert images.shape == (40, *shape)
    assert images.dtype == torch.uint8
    mean = images.float().mean((1, 2, 3)) / 255
    torch.testing.assert_close(mean, 0.35 + labels / 10, atol=0.02, rtol=0)
    assert [len(call["class_labels"]) for call in FakePipeline.calls] == [CHUNK, 8]  # type: ignore[arg-type]
    assert torch.equal(images, generator.sample(labels, generator=rng(0, "x")))
    assert FakePipeline.calls[0]["guidance_scale"] == 4.0
    (pipeline / "sampling.json").write_text(json.dumps({"guidance_scale": 1.5}))
    other = open_external(f"diffusers:{pipeline}", CLASSES, shape, CPU)
    assert other.fingerprint != generator.fingerprint
    other.sample(labels[:1], generator=rng(0, "x"))
    assert FakePipeline.calls[-1]["guidance_scale"] == 1.5


def test_weights_of_a_pipeline_are_not_read_whole(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise MemoryError(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    prints = set()
    for content in (b"1", b"2", b"1"):
        (pipeline / "weights.safetensors").write_bytes(content)
        prints.add(open_external(f"diffusers:{pipeline}", CLASSES, SHAPE, CPU).fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pipeline.py", "", "holds Python code (pipeline.py), which is never run; remove it"),
        ("broken", "", "failed: OSError: no weights there"),
        ("sampling.json", '{"steps": 3}', "the pipeline takes no steps; known: guidance_scale"),
        ("sampling.json", "{", "sampling.json: not readable JSON"),
    ],
)
def test_pipelines_that_are_refused(pipeline: Path, file: str, content: str, message: str) -> None:
    (pipeline / file).write_text(content)
    with pytest.raises(GankdError, match=re.escape(message)) as caught:
        open_external(f"diffusers:{pipeline}", CLASSES, SHAPE, CPU)
    assert "\n" not in str(caught.value)


def test_a_pipeline_takes_classes_and_needs_diffusers(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="pipelines take classes, but the labels are values"):
        open_external(f"diffusers:{pipeline}", AGES, SHAPE, CPU)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModelError, match=r"needs diffusers .*: pip install 'gankd\[diffusers\]'"):
        open_external(f"diffusers:{pipeline}", CLASSES, SHAPE, CPU)


@pytest.mark.filterwarnings("default")  # those of a library that is not ours
def test_a_diffusion_transformer_made_here(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
    )
    pipe = diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=diffusers.DDIMScheduler())
    pipe.save_pretrained(tmp_path / "dit", safe_serialization=True)
    (tmp_path / "dit" / "sampling.json").write_text(json.dumps({"num_inference_steps": 2, "guidance_scale": 1.0}))
    generator = open_external(f"diffusers:{tmp_path / 'dit'}", CLASSES, (1, 8, 8), CPU)
    images = generator.sample(LABELS, generator=rng(0, "x"))
    assert images.shape == (4, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert torch.equal(images, generator.sample(LABELS, generator=rng(0, "x")))
    assert not torch.equal(images, generator.sample(LABELS, generator=rng(1, "x")))
    again = open_external(f"diffusers:{tmp_path / 'dit'}", CLASSES, (1, 8, 8), CPU)
    assert again.fingerprint == generator.fingerprint
