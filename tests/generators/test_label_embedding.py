"""How labels enter: closed forms, smoothness over scalar labels, and a label input that stays frozen."""

import math

import pytest
import torch
from torch import nn

from gankd.generators.label_embedding import (
    ClassEmbedding,
    FourierEmbedding,
    LabelToEmbedding,
    NaiveLabelInput,
    make_embedding,
)
from gankd.seeds import rng
from gankd.tasks import Classification, Regression

CLASSES = Classification(num_classes=4)
AGES = Regression(low=20.0, high=60.0)


def test_naive_input_is_the_label_on_minus_one_to_one() -> None:
    found = NaiveLabelInput(AGES)(torch.tensor([20.0, 40.0, 60.0]))
    assert found.tolist() == [[-1.0], [0.0], [1.0]]


def test_class_embedding_is_a_row_per_class() -> None:
    embedding = ClassEmbedding(4, 3)
    labels = torch.tensor([2, 0, 2])
    assert torch.equal(embedding(labels), embedding.table.weight[labels])


def test_fourier_features_by_formula() -> None:
    embedding = FourierEmbedding(AGES, 7)
    labels = torch.tensor([20.0, 27.0, 60.0])
    share = (labels.double() - 20) / 40
    waves = [math.pi * 2**octave * share for octave in range(4)]
    features = torch.stack([2 * share - 1, *(w.sin() for w in waves), *(w.cos() for w in waves)], 1).float()
    expected = (features @ embedding.layer.weight.T + embedding.layer.bias).relu()
    torch.testing.assert_close(embedding(labels), expected, atol=1e-5, rtol=1e-4)


def test_both_ends_of_the_range_are_told_apart() -> None:
    # sines and cosines of whole turns alone would take 20 for 60 years
    embedding = FourierEmbedding(AGES, 64)
    low, high = embedding(torch.tensor([20.0, 60.0]))
    near, far = embedding(torch.tensor([40.0, 40.4]))
    assert (low - high).norm() > 5 * (near - far).norm()


def test_label_to_embedding_has_the_published_layers() -> None:
    embedding = LabelToEmbedding(AGES)
    linear = [module for module in embedding.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in embedding.modules() if isinstance(module, nn.GroupNorm)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(1, 128)] + [(128, 128)] * 4
    assert [norm.num_groups for norm in norms] == [8] * 4
    found = embedding(torch.tensor([20.0, 45.0, 60.0]))
    assert found.shape == (3, 128)
    assert found.min() >= 0
    alone = embedding(torch.tensor([45.0]))
    torch.testing.assert_close(alone, found[1:2])  # no statistics over the batch


@pytest.mark.parametrize(("kind", "width"), [("learned", 6), ("nli", 1), ("ili", 128)])
def test_make_embedding(kind: str, width: int) -> None:
    labels = 20 + 40 * torch.rand(5, generator=rng(0, "labels"))
    embedding = make_embedding(AGES, kind, 6)  # type: ignore[arg-type]
    assert embedding.width == width
    assert embedding(labels).shape == (5, width)
    classes = make_embedding(CLASSES, kind, 6)  # type: ignore[arg-type]
    assert isinstance(classes, ClassEmbedding)
    assert classes(torch.tensor([0, 3])).shape == (2, 6)


def test_a_given_ili_is_shared_and_frozen() -> None:
    ili = LabelToEmbedding(AGES)
    assert make_embedding(AGES, "ili", 6, ili) is ili
    assert not any(parameter.requires_grad for parameter in ili.parameters())
