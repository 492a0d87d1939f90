"""Losses on labels of several values: those of one value, averaged over the outputs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd.losses import distillation
from gankd.losses.distillation.crd import CRD
from gankd.losses.distillation.dml import DML
from gankd.losses.distillation.predictive import Gaussian, Histogram
from gankd.losses.distillation.spec import package_losses
from gankd.seeds import rng
from gankd.tasks import Regression, VectorRegression

LOSSES = package_losses(distillation)
TASK = VectorRegression(names=("a", "b", "c"), outputs=(Regression(low=0.0, high=1.0),) * 3)
ELEMENTWISE = ["L1", "L2", "MSE", "KD"]


def values(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=rng(seed, "values"))


def inputs(columns: slice | int = slice(None)) -> dict[str, Any]:
    """Student, teacher and labels of eight images, for all outputs or one."""
    student, teacher, labels = (values(seed, 8, 3)[:, columns] for seed in range(3))
    found = {"targets": labels, "labels": labels, "task": TASK if student.ndim == 2 else TASK.outputs[0]}
    for kind in ("values", "outputs"):
        found |= {f"student_{kind}": student, f"teacher_{kind}": teacher}
    return found


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_loss_is_the_mean_over_the_outputs(name: str) -> None:
    found = LOSSES[name]
    joint = found.make(*[inputs()[each] for each in found.inputs])
    single = [found.make(*[inputs(column)[each] for each in found.inputs]) for column in range(3)]
    torch.testing.assert_close(joint, torch.stack(single).mean(0))


def test_a_bound_is_on_the_whole_vector() -> None:
    found = LOSSES["TeacherBounded"]
    labels = torch.zeros(2, 2)
    student, teacher = torch.tensor([[0.1, 0.3], [0.1, 0.1]]), torch.tensor([[0.2, 0.2], [0.2, 0.2]])
    assert found.make(student, teacher, labels).tolist() == pytest.approx([0.05, 0.0])


def test_gaussians_and_histograms_have_one_read_out_for_each_output() -> None:
    embedding, given = values(3, 8, 5), inputs()
    for make, weights, rows in ((Gaussian, "read_out", 1), (Histogram, "head", 32)):
        loss = make(embedding, given["student_values"])
        layer = getattr(loss, weights)
        assert layer.out_features == 3 * rows
        torch.nn.init.normal_(layer.weight)
        single = []
        for column in range(3):
            one = inputs(column)
            part = make(embedding, one["student_values"])
            own = nn.Linear(5, rows)
            with torch.no_grad():
                own.weight.copy_(layer.weight.view(3, rows, 5)[column])
                own.bias.copy_(layer.bias.view(3, rows)[column])
            setattr(part, weights, own)
            single.append(part(one["student_values"], one["teacher_values"], embedding, one["labels"]))
        joint = loss(given["student_values"], given["teacher_values"], embedding, given["labels"])
        torch.testing.assert_close(joint, torch.stack(single).mean(0))


def test_peers_compare_values_and_not_logits() -> None:
    given = inputs()
    peer = nn.Linear(4, 3)
    loss = DML(lambda seed: peer, lambda name, seed: peer)
    images = values(4, 8, 4)
    found = loss(given["student_outputs"], given["targets"], images, TASK)
    theirs = peer(images)
    expected = (theirs - given["targets"]).square() + 2 * (theirs - given["student_outputs"]).square()
    torch.testing.assert_close(found, expected.mean(1))


def test_contrast_of_one_column_is_that_of_one_value() -> None:
    own, other, labels = values(5, 8, 6), values(6, 8, 7), torch.arange(8) / 8
    found = []
    for given in (labels, labels[:, None]):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = CRD(own, other, given, dim=4)
        found.append(loss(own, other, given, torch.arange(8), rng(7, "crd")))
    torch.testing.assert_close(*found)
