"""What every loss on feature maps must do, whatever the shapes: values per row, gradients, order of rows, errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gankd.errors import ConfigError, ModelError
from gankd.losses.distillation.ab import AB
from gankd.losses.distillation.at import at
from gankd.losses.distillation.fitnet import FitNet
from gankd.losses.distillation.fsp import FSP
from gankd.losses.distillation.ft import FT
from gankd.losses.distillation.kdsvd import KDSVD
from gankd.losses.distillation.nst import nst
from gankd.losses.distillation.ofd import OFD
from gankd.losses.distillation.reviewkd import ReviewKD
from gankd.losses.distillation.spec import Loss
from gankd.losses.distillation.vid import VID
from gankd.seeds import rng

Shapes = list[tuple[int, int, int]]
Inputs = dict[str, Any]

MARKED: list[Any] = [AB, FSP, FT, KDSVD, OFD, VID, FitNet, ReviewKD, at, nst]
LOSSES: list[Loss] = [make.gankd_loss for make in MARKED]
each_loss = pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)

STUDENT: Shapes = [(16, 8, 8), (32, 4, 4)]
TEACHER: Shapes = [(24, 16, 16), (48, 4, 4)]
PAIRS = {
    "the student's map is smaller": (STUDENT, TEACHER),
    "the student's map is larger": (TEACHER, STUDENT),
    "one position at the end": ([(4, 4, 4), (6, 1, 1)], [(5, 8, 8), (7, 1, 1)]),
    "one position on one side": ([(4, 1, 1), (6, 3, 3)], [(5, 4, 4), (7, 1, 1)]),
    "not square, larger in one direction each": ([(3, 7, 4), (5, 3, 1)], [(4, 5, 6), (3, 2, 2)]),
    "equal widths": ([(4, 4, 4), (6, 2, 2)], [(4, 4, 4), (6, 2, 2)]),
}


def make_inputs(student: Shapes, teacher: Shapes, rows: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Maps as a ReLU leaves them and as they were before, with positive and negative values."""
    inputs: Inputs = {"progress": 0.5}
    for side, shapes in (("student", student), ("teacher", teacher)):
        maps = [torch.randn(rows, *s, generator=rng(n, side), dtype=dtype) for n, s in enumerate(shapes)]
        inputs[f"{side}_preactivations"] = maps
        inputs[f"{side}_features"] = [m.relu() for m in maps]
        inputs[f"{side}_embedding"] = inputs[f"{side}_features"][-1].mean((2, 3))
    return inputs


def build(spec: Loss, inputs: Inputs, **settings: Any) -> tuple[nn.Module, Callable[[Inputs], Tensor]]:
    """A loss made for these inputs, and a function that applies it to others of their shapes."""
    torch.manual_seed(0)
    if not spec.is_module:
        return nn.Module(), lambda batch: spec.make(*(batch[name] for name in spec.inputs), **settings)
    with torch.no_grad():
        part = spec.make(*(inputs[name] for name in spec.build_inputs), **settings)
    return part, lambda batch: part(*(batch[name] for name in spec.inputs))


def leaves(inputs: Inputs) -> list[Tensor]:
    """The student's tensors, made to require gradients: features and pre-activations are not tied to each other."""
    tensors = [*inputs["student_preactivations"], *inputs["student_features"], inputs["student_embedding"]]
    return [tensor.requires_grad_() for tensor in tensors]


@each_loss
@pytest.mark.parametrize("shapes", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_two_shapes_give_one_value_per_row_and_finite_gradients(
    spec: Loss, shapes: tuple[Shapes, Shapes], rows: int
) -> None:
    inputs = make_inputs(*shapes, rows)
    before = [m.clone() for m in inputs["teacher_features"] + inputs["teacher_preactivations"]]
    part, call = build(spec, make_inputs(*shapes, 4))
    tensors = leaves(inputs)
    losses = call(inputs)
    assert losses.shape == (rows,)
    assert losses.isfinite().all()
    gradients = torch.autograd.grad(losses.mean(), [*tensors, *part.parameters()], allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)
    after = inputs["teacher_features"] + inputs["teacher_preactivations"]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@each_loss
def test_every_map_that_is_read_and_every_adapter_learns(spec: Loss) -> None:
    inputs = make_inputs(STUDENT, TEACHER, 4)
    part, call = build(spec, inputs)
    read = [name for name in spec.inputs if name.startswith("student_")]
    leaves(inputs)
    call(inputs).mean().backward()
    tensors = [t for name in read for t in (inputs[name] if isinstance(inputs[name], list) else [inputs[name]])]
    learning = [t.grad is not None and bool((t.grad != 0).any()) for t in tensors]
    assert all(learning) if spec.name not in ("FitNet", "FT") else sum(learning) == 1  # these read one map
    for name, parameter in part.named_parameters():
        if name.startswith("pretrained."):
            assert parameter.grad is None, name  # made to say what the teacher says, not what is easy for the student
        else:
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).any(), name


@each_loss
def test_rows_in_another_order_give_the_values_in_that_order(spec: Loss) -> None:
    inputs = make_inputs(STUDENT, TEACHER, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = {
        name: [m[order] for m in value] if isinstance(value, list) else value if name == "progress" else value[order]
        for name, value in inputs.items()
    }
    part, call = build(spec, inputs)
    fresh, call_again = build(spec, inputs)
    fresh.load_state_dict(part.state_dict())
    torch.testing.assert_close(call_again(shuffled), call(inputs)[order], rtol=2e-4, atol=1e-6)


@each_loss
@pytest.mark.parametrize("shapes", [([(2, 2, 2), (3, 2, 1)], [(3, 4, 2), (2, 2, 1)])], ids=["tiny"])
def test_gradients_are_those_of_finite_differences(spec: Loss, shapes: tuple[Shapes, Shapes]) -> None:
    inputs = make_inputs(*shapes, 3, torch.float64)
    inputs["student_features"] = [m.exp() for m in inputs["student_preactivations"]]  # 0 is the kink of a ReLU
    part, call = build(spec, inputs)
    part.double()
    names = [name for name, _ in part.named_parameters() if not name.startswith("pretrained")]
    parameters = [p.detach().clone().requires_grad_() for name, p in part.named_parameters() if name in names]
    if spec.name == "VID":
        parameters[-1].data.sub_(4)  # softplus is almost straight at the variance it starts from
    count = len(shapes[0])

    def of_tensors(*tensors: Tensor) -> Tensor:
        batch = dict(inputs)
        batch["student_preactivations"], batch["student_features"] = tensors[:count], tensors[count : 2 * count]
        batch["student_embedding"], values = tensors[2 * count], dict(zip(names, tensors[2 * count + 1 :], strict=True))
        arguments = tuple(list(v) if isinstance(v := batch[name], tuple) else v for name in spec.inputs)
        return functional_call(part, values, arguments) if spec.is_module else call(batch)

    assert torch.autograd.gradcheck(of_tensors, (*leaves(inputs), *parameters), rtol=2e-3, atol=1e-6)


@each_loss
@pytest.mark.parametrize("dead", ["student", "teacher"])
def test_a_network_that_shows_nothing_gives_finite_losses_and_gradients(spec: Loss, dead: str) -> None:
    inputs = make_inputs(STUDENT, TEACHER, 3)
    for name, value in inputs.items():
        if name.startswith(dead):
            inputs[name] = [torch.zeros_like(m) for m in value] if isinstance(value, list) else torch.zeros_like(value)
    part, call = build(spec, inputs)
    tensors = leaves(inputs)
    losses = call(inputs)
    assert losses.isfinite().all()
    gradients = torch.autograd.grad(losses.sum(), [*tensors, *part.parameters()], allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


@each_loss
def test_one_pair_is_enough_or_refused_in_one_line(spec: Loss) -> None:
    inputs = make_inputs(STUDENT[:1], TEACHER[:1], 4)
    if spec.name in ("FSP", "KDSVD"):
        with pytest.raises(ModelError, match=f"^{spec.name} needs at least 2 pairs of feature maps, got 1; name more"):
            build(spec, inputs)
    else:
        _, call = build(spec, inputs)
        assert call(inputs).shape == (4,)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (at, {"p": 0}, "AT: p must be at least 1, got 0"),
        (VID, {"eps": 9.0}, "VID: eps must lie between 0 and variance 5.0, got 9.0"),
        (AB, {"margin": 0.0}, "AB: margin must be positive, got 0.0"),
        (AB, {"first": 1.0}, "AB: first must lie in [0, 1), got 1.0"),
        (FSP, {"first": -0.1}, "FSP: first must lie in [0, 1), got -0.1"),
        (FT, {"k": 0.0}, "FT: k must be positive, got 0.0"),
        (FT, {"p": 3}, "FT: p must be 1 or 2, got 3"),
        (FT, {"pretrain": -1.0}, "FT: pretrain must be at least 0, got -1.0"),
        (KDSVD, {"k": 0}, "KDSVD: k must be at least 1, got 0"),
        (KDSVD, {"iterations": 0}, "KDSVD: iterations must be at least 1, got 0"),
        (ReviewKD, {"width": 0}, "ReviewKD: width must be at least 1, got 0"),
        (ReviewKD, {"warmup": 2.0}, "ReviewKD: warmup must lie in [0, 1], got 2.0"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(make: Any, settings: dict[str, Any], message: str) -> None:
    inputs = make_inputs(STUDENT, TEACHER, 4)
    with pytest.raises(ConfigError) as refusal:
        build(make.gankd_loss, inputs, **settings)[1](inputs)
    assert str(refusal.value) == message


def test_published_weights_are_in_force() -> None:
    weights = {spec.name: spec.weight for spec in LOSSES}
    assert weights == {
        "AB": 1,
        "AT": 1000,
        "FSP": 1,
        "FT": 500,
        "FitNet": 100,
        "KDSVD": 1,
        "NST": 50,
        "OFD": 0.001,
        "ReviewKD": 5,
        "VID": 1,
    }


@each_loss
def test_the_line_that_lists_it_fits_and_it_serves_both_tasks(spec: Loss) -> None:
    assert 20 < len(spec.summary) <= 90
    assert spec.tasks == ("classification", "regression")
