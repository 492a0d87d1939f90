"""The sparse auto-encoder: a non-negative code that training makes tell the image and the label."""

import pytest
import torch
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.networks import to_float
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.subsampling.autoencoder import SparseAutoencoder
from gankd.tasks import Classification, Regression, Task
from gankd.training.autoencoder import SPARSITY, train_autoencoder

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
ANGLES = Regression(low=-10.0, high=30.0)
CLASSES = Classification(num_classes=3)


def toy(task: Task, size: int = 8, count: int = 64) -> LabelledImages:
    """Images of one grey level each, which tells the label."""
    share = torch.rand(count, generator=rng(0, "toy"))
    images = (255 * share)[:, None, None, None].expand(-1, 1, size, size).to(torch.uint8).contiguous()
    labels = task.denormalise(share) if isinstance(task, Regression) else (share * 3).long()
    return LabelledImages(images, labels, task)


@pytest.mark.parametrize("task", [ANGLES, CLASSES])
@pytest.mark.parametrize("size", [8, 16, 28])
def test_code_picture_and_label(task: Task, size: int) -> None:
    before = torch.get_rng_state()
    network = SparseAutoencoder(task, (1, size, size), seed=0, code_width=24).eval()
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randint(0, 256, (5, 1, size, size), generator=rng(0, "x")).to(torch.uint8)
    picture, code, outputs = network(images)
    assert picture.shape == images.shape
    assert picture.abs().max() <= 1
    assert code.shape == (5, 24)
    assert code.min() >= 0
    assert (code == 0).any()
    task.check_outputs(outputs, 5, "auto-encoder")
    torch.testing.assert_close(code, network.encode(images))
    torch.testing.assert_close(code, network.train().encode_in_batches(images, PLAIN))


def test_outputs_are_in_label_units() -> None:
    network = SparseAutoencoder(ANGLES, (1, 8, 8), seed=0).eval()
    last = network.predictor[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 0.25)
    _, _, outputs = network(toy(ANGLES).images)
    torch.testing.assert_close(outputs, torch.zeros(64), atol=1e-5, rtol=0)  # -10 + 40 / 4


def test_training_teaches_the_code_the_image_and_the_label() -> None:
    data = toy(ANGLES)
    stage = Stage("ae")
    network = SparseAutoencoder(ANGLES, data.shape, seed=0, code_width=16)
    train_autoencoder(network, data, 40, PLAIN, 0, stage)
    assert not network.training
    with torch.no_grad():
        picture, _, outputs = network(data.images)
    truth = to_float(data.images)
    assert (picture - truth).square().mean() < 0.1 * truth.var()
    assert ANGLES.metrics(outputs, data.labels)["mae"] < 0.5 * ANGLES.chance(data.labels)


def test_the_logged_loss_is_the_published_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(CLASSES, count=128)
    terms: dict[str, Tensor] = {}
    stage = Stage("ae")
    monkeypatch.setattr(stage, "report", lambda images, **found: terms.update(found))
    network = SparseAutoencoder(CLASSES, data.shape, seed=0, code_width=16)
    with torch.no_grad():  # the whole set is one batch, so its order does not matter
        picture, code, outputs = network.train()(data.images)
    train_autoencoder(SparseAutoencoder(CLASSES, data.shape, seed=0, code_width=16), data, 1, PLAIN, 0, stage)
    pixels = (picture - to_float(data.images)).square().mean()
    label = CLASSES.loss(outputs, data.labels).mean()
    torch.testing.assert_close(terms["pixels"], pixels)
    torch.testing.assert_close(terms["label"], label)
    torch.testing.assert_close(terms["loss"], pixels + SPARSITY * code.mean() + label)
    assert SPARSITY == 1e-3
