"""cGAN-KD with a generator that is not trained here, a function or a folder: judged once, reused, told apart."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gankd.commands.plan import plan
from gankd.commands.sample import sample
from gankd.config import override
from gankd.data.digits import load_digits
from gankd.errors import CheckpointError, ModelError
from gankd.generators.external import Generator, ImagePool
from gankd.recipes import RECIPES, Recipe, generated
from gankd.recipes.arms import arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import make_generator, open_pool
from gankd.recipes.stages import Stages, declare
from gankd.recipes.teacher import make_teacher
from gankd.runs import Run, Stage
from gankd.synthetic import SyntheticSet

CODE = """
import torch

from gankd.data.digits import load_digits

def held_out(labels, generator):
    real = load_digits().val
    picks = [(real.labels == label).nonzero()[:, 0] for label in labels]
    places = torch.rand(len(labels), generator=generator)
    index = torch.stack([pick[int(place * len(pick))] for pick, place in zip(picks, places)])
    return real.images[index].float() / 127.5 - 1

def wrong(labels, generator):
    return torch.zeros(len(labels), 3, 8, 8)
"""


@pytest.fixture
def recipe(tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    def fail(*_: object) -> None:
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(generated, "train_gan", fail)
    (tmp_path / "own_images.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_images", raising=False)
    return override(RECIPES["digits"](), (*tiny, "gan.external=own_images:held_out", "synth.pool=300"))


def pool_of(recipe: Recipe, folder: Path) -> tuple[SyntheticSet, Stages]:
    """Everything up to the pool, made."""
    with Run(folder) as run:
        experiment = Experiment.open(recipe, run)
        stages = cgan_kd(experiment, [arm_named(recipe, "adjusted")])
    return open_pool(experiment, stages.synth), stages


def gan_of(recipe: Recipe, folder: Path) -> Stage:
    return declare(Experiment.open(recipe, Run(folder)), [arm_named(recipe, "adjusted")]).gan


def generator_of(recipe: Recipe, folder: Path) -> Generator:
    experiment = Experiment.open(recipe, Run(folder))
    stages = declare(experiment, [arm_named(recipe, "adjusted")])
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    return make_generator(experiment, teacher, recipe.gan, stages.gan)


def test_a_function_takes_the_place_of_training(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pool, stages = pool_of(recipe, folder)
    stage = stages.gan
    assert len(pool) == 300
    assert pool.provenance["gan"] == stage.fingerprint
    assert stage.result is not None
    health = stage.result["health"]
    assert health["teacher"] > 50  # real images, of which a tenth would be right by chance
    assert health["variance_ratio"] > 0.5
    assert gan_of(recipe, folder).fingerprint == stage.fingerprint
    assert gan_of(recipe, folder).done
    images = generator_of(recipe, folder).sample(torch.tensor([3, 4]), generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, 8, 8)
    # how another would be trained does not matter, the teacher that judges does
    trained_longer = replace(recipe, gan=replace(recipe.gan, steps=99))
    assert gan_of(trained_longer, folder).fingerprint == stage.fingerprint
    other_judge = replace(recipe, teacher=replace(recipe.teacher, lr=0.01))
    assert gan_of(other_judge, folder).fingerprint != stage.fingerprint
    other = replace(recipe, gan=replace(recipe.gan, external="own_images:wrong"))
    assert gan_of(other, folder).fingerprint != stage.fingerprint
    with pytest.raises(ModelError, match=r"own_images:wrong gives images \(256, 3, 8, 8\) for 256 labels, exp"):
        generator_of(other, folder)
    assert {row.stage: row.status for row in plan(recipe, folder)}["gan"] == "reuse"
    out = sample(folder, "0,7", count=3, out=tmp_path / "grid.png", trust=True)
    with Image.open(out) as grid:
        assert grid.size[0] > 3 * 8
    file = tmp_path / "own_images.py"
    file.write_text(file.read_text() + "# changed\n")
    del sys.modules["own_images"]  # as in another process
    with pytest.raises(CheckpointError, match="own_images:held_out has changed since .* was made; run the gan stage"):
        sample(folder, "0,7", count=3, out=tmp_path / "grid.png", trust=True)


def test_a_folder_of_images_is_a_pool_that_ends(recipe: Recipe, tmp_path: Path) -> None:
    real = load_digits().val
    for number, (image, label) in enumerate(zip(real.images[:120], real.labels[:120], strict=True)):
        path = tmp_path / "fakes" / str(label.item()) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    recipe = replace(recipe, gan=replace(recipe.gan, external=str(tmp_path / "fakes")))
    pool, _ = pool_of(recipe, tmp_path / "run")
    assert isinstance(generator_of(recipe, tmp_path / "run"), ImagePool)
    assert 100 < len(pool) <= 120  # of 300: the rarest classes leave room
    shown = {(image.numpy().tobytes(), label) for image, label in zip(pool.images(), pool.labels.tolist(), strict=True)}
    assert len(shown) == len(pool)  # none twice
    assert shown <= {
        (i.numpy().tobytes(), n) for i, n in zip(real.images[:120], real.labels[:120].tolist(), strict=True)
    }
