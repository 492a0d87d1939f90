"""Improved label input: T1 reads labels off images, and T1's head reads them back from T2's embedding."""

from pathlib import Path

import pytest
import torch

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.label_embedding import LabelToEmbedding
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.storage import load_state
from gankd.tasks import Regression
from gankd.training.label_embedding import ImageToEmbedding, train_label_embedding

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
AGES = Regression(low=20.0, high=60.0)


def toy(count: int = 64) -> LabelledImages:
    """Brightness tells the label."""
    share = torch.arange(count) / (count - 1)
    noise = 0.1 * torch.rand((count, 1, 8, 8), generator=rng(0, "toy"))
    images = (255 * (0.9 * share[:, None, None, None] + noise)).to(torch.uint8)
    return LabelledImages(images, AGES.denormalise(share), AGES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelToEmbedding, Path]:
    folder = tmp_path_factory.mktemp("gan")
    before = torch.get_rng_state()
    t2 = train_label_embedding(toy(), toy(), 100, PLAIN, 0, Stage("gan", folder))
    assert t2 is not None
    assert torch.equal(before, torch.get_rng_state())
    return t2, folder


def head(folder: Path) -> torch.nn.Linear:
    """T1's head, from what the stage kept."""
    weights = load_state(folder / "T1" / "checkpoint.safetensors")["state"]["model"]
    net = ImageToEmbedding(1, 1)
    net.load_state_dict({name[4:]: value for name, value in weights.items() if name.startswith("net.")})
    return net.head


def test_the_head_of_t1_reads_labels_back_from_t2(trained: tuple[LabelToEmbedding, Path]) -> None:
    t2, folder = trained
    labels01 = torch.linspace(0, 1, 201)  # between training labels as well
    with torch.no_grad():
        found = head(folder)(t2(AGES.denormalise(labels01)))[:, 0]
    assert (found - labels01).abs().max() < 0.05


def test_t2_is_returned_frozen_and_in_eval_mode(trained: tuple[LabelToEmbedding, Path]) -> None:
    t2, _ = trained
    assert not t2.training
    assert not any(parameter.requires_grad for parameter in t2.parameters())


def test_near_labels_have_near_embeddings(trained: tuple[LabelToEmbedding, Path]) -> None:
    t2, _ = trained
    embedded = t2(AGES.denormalise(torch.linspace(0, 1, 101)))
    steps = embedded.diff(dim=0).norm(dim=1)
    assert (embedded[0] - embedded[-1]).norm() > 10 * steps.mean()
    assert steps.max() < 20 * steps.median()  # no jumps


def test_the_parts_keep_logs_of_their_own(trained: tuple[LabelToEmbedding, Path]) -> None:
    _, folder = trained
    first, second = (Stage("x", folder / name).stored_history() for name in ("T1", "T2"))
    assert first[-1]["val_mae"] < AGES.chance(toy().labels) / 2
    assert [line["step"] for line in second] == [50, 100]
    assert second[-1]["loss"] < 0.05**2
