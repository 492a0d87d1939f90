"""Weights from elsewhere: names with the prefixes of wrappers, other types, and files of other networks."""

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import CheckpointError
from gankd.models.checkpoints import fill_from_checkpoint, own_names


def net(outputs: int = 5, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(outputs)).eval()


def trained() -> tuple[nn.Module, Tensor]:
    made, x = net(seed=1), torch.rand(2, 3, 6, 6)
    return made, made(x)


def filled(weights: dict[str, Tensor], outputs: int = 5) -> nn.Module:
    made = net(outputs)
    made(torch.zeros(2, 3, 6, 6))
    fill_from_checkpoint(made, weights, "big.pt does not fit net")
    return made


PREFIXES = ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "model.net."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_left_out_and_said(prefix: str) -> None:
    made, _ = trained()
    found = filled({prefix + name: value for name, value in made.state_dict().items()})
    torch.testing.assert_close(found.state_dict(), made.state_dict(), rtol=0, atol=0)
    _, remark = own_names({prefix + name: value for name, value in made.state_dict().items()}, made)
    assert all(part in remark for part in prefix.split(".") if part)
    assert (remark == "") == (prefix == "")


def test_a_part_that_was_compiled_is_read() -> None:
    made, _ = trained()
    weights = {name.replace("0.", "0._orig_mod.", 1): value for name, value in made.state_dict().items()}
    torch.testing.assert_close(filled(weights).state_dict(), made.state_dict(), rtol=0, atol=0)


def test_what_lies_beside_the_network_is_left_out_and_said() -> None:
    made, _ = trained()
    weights = {f"model.{name}": value for name, value in made.state_dict().items()}
    weights["criterion.weight"] = torch.ones(5)
    torch.testing.assert_close(filled(weights).state_dict(), made.state_dict(), rtol=0, atol=0)
    said = own_names(weights, made)[1]
    assert said == "read without model. in the names of its weights; criterion.weight not used"


def test_a_network_whose_own_names_begin_so_keeps_them() -> None:
    inner, _ = trained()
    own = nn.ModuleDict({"model": inner})
    weights = own.state_dict()
    assert own_names(weights, own) == (weights, "")
    fill_from_checkpoint(own, {f"module.{name}": value for name, value in weights.items()}, "")
    assert "without module. in" in own_names({f"module.{name}": value for name, value in weights.items()}, own)[1]


def test_old_files_without_counters_are_read() -> None:
    made, _ = trained()
    weights = {f"module.{n}": v for n, v in made.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert torch.equal(filled(weights).get_parameter("3.weight"), made.get_parameter("3.weight"))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_become_the_networks(kind: torch.dtype) -> None:
    made, _ = trained()
    found = filled({n: v.to(kind) if v.is_floating_point() else v for n, v in made.state_dict().items()})
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    torch.testing.assert_close(found.state_dict(), made.state_dict(), rtol=1e-2, atol=1e-2)


def refusal(weights: dict[str, Tensor], outputs: int = 5) -> str:
    with pytest.raises(CheckpointError) as error:
        filled(weights, outputs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_weights_are_refused_with_both_lists_and_the_likely_cause() -> None:
    made, _ = trained()
    weights = made.state_dict()
    other = {f"backbone.{name}": value for name, value in weights.items()}
    assert refusal(other) == (
        "big.pt does not fit net: the file has no 0.weight, 0.bias, 1.weight and 6 more; the network has no "
        "backbone.0.weight, backbone.0.bias, backbone.1.weight and 6 more; no name is the same: it is another network, "
        "or its names have a prefix to remove"
    )
    less = {name: value for name, value in weights.items() if name != "3.bias"}
    assert refusal(less).startswith("big.pt does not fit net: the file has no 3.bias; it is another network, or")
    more = {**weights, "4.weight": torch.ones(2)}
    assert "net: the network has no 4.weight; it is another network, or the same with another depth" in refusal(more)
    said = refusal(weights, outputs=7)
    assert "size mismatch, the file has 3.weight [5, 64] instead of [7, 64], 3.bias [5] instead of [7]; " in said
    assert said.endswith("it was made for another number of outputs, channels or another width")
    assert "the file has no 0.weight" in refusal({})
