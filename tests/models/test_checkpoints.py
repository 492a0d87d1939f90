"""Weights from elsewhere: names with the prefixes of wrappers, other types, and files of other networks."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import CheckpointError
from gankd.models import build_net
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
PREFIXES += ["backbone.", "student.encoder."]


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
    less = {name: value for name, value in weights.items() if name != "3.bias"}
    differs = "only the last layers differ: it has another head"
    assert refusal(less) == f"big.pt does not fit net: the file has no 3.bias; {differs}"
    more = {**weights, "4.weight": torch.ones(2)}
    assert refusal(more) == f"big.pt does not fit net: the network has no 4.weight; {differs}"
    said = refusal(weights, outputs=7)
    assert "size mismatch, the file has 3.weight [5, 64] instead of [7, 64], 3.bias [5] instead of [7]; " in said
    assert said.endswith("it has another number of outputs (5 instead of 7)")
    assert "the file has no 0.weight" in refusal({})


def weights_of(name: str, outputs: int = 10, channels: int = 3) -> dict[str, Tensor]:
    return build_net(name, in_channels=channels, image_size=32, num_outputs=outputs, seed=0).state_dict()


def cause(weights: Mapping[str, Tensor], name: str = "resnet20") -> str:
    """The last clause of the refusal for a network of the zoo."""
    net = build_net(name, in_channels=3, image_size=32, num_outputs=10, seed=1)
    with pytest.raises(CheckpointError) as error:
        fill_from_checkpoint(net, weights, "big.pt does not fit net")
    assert "\n" not in str(error.value)
    return str(error.value).rpartition("; ")[2]


def without(weights: Mapping[str, Tensor], *ends: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.endswith(ends)}


def test_another_shape_of_the_same_network() -> None:
    assert cause(weights_of("resnet20", 7)) == "it has another number of outputs (7 instead of 10)"
    assert cause(weights_of("resnet20x2")) == "it has another width, or reads images with other channels"
    assert cause(weights_of("resnet20", channels=1)) == "it has another width, or reads images with other channels"
    layers = [sum(value.ndim > 1 for value in weights_of(name).values()) for name in ("resnet32", "resnet20")]
    deeper = f"it is the same kind of network with another depth ({layers[0]} layers instead of {layers[1]} layers)"
    assert cause(weights_of("resnet32")) == deeper


def test_another_head() -> None:
    own = weights_of("resnet20")
    last = list(own)[-2].rpartition(".")[0]
    head = {f"{last}.0.weight": torch.ones(64, 64), f"{last}.2.weight": torch.ones(9, 64)}
    more = {name: value for name, value in own.items() if not name.startswith(f"{last}.")} | head
    assert cause(more) == f"it ends in a head of 2 layers ({last}.0 to {last}.2), and the network in another"
    assert cause(weights_of("resnet20+mlp")).startswith(("it ends in a head of", "only the last layers differ"))
    body = {name: value for name, value in own.items() if not name.startswith(f"{last}.")}
    assert cause(body) == "only the last layers differ: it has another head"


def test_statistics_of_batch_normalisation() -> None:
    own = weights_of("resnet20")
    bare = without(own, "running_mean", "running_var", "num_batches_tracked")
    assert cause(bare).startswith("it lacks the statistics of batch normalisation: save model.state_dict(), and not")
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(CheckpointError, match="the network keeps no statistics of batch normalisation, as track_run"):
        fill_from_checkpoint(net, trained()[0].state_dict(), "")


def test_several_networks_in_one_file() -> None:
    own = weights_of("resnet20")
    both = {f"{part}.{name}": value for part in ("online_model", "ema_model") for name, value in own.items()}
    said = "it holds several such networks, under online_model. and ema_model.: save the one that you want by itself"
    assert cause(both) == said
    net = build_net("resnet20", in_channels=3, image_size=32, num_outputs=10, seed=1)
    beside = {f"model.{name}": value for name, value in own.items()} | both
    assert "read without model. in the names of its weights; online_model." in own_names(beside, net)[1]
    averaged = {f"module.{name}": value for name, value in own.items()} | {"n_averaged": torch.tensor(3)}
    assert own_names(averaged, net)[1] == "read without module. in the names of its weights; n_averaged not used"


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        ("layer1.0.conv1.lora_A.weight", "it holds low-rank adapters: merge them into the weights before saving"),
        ("layer1.0.conv1.zero_point", "its weights are quantised: save those before quantisation"),
        ("layer1.0.conv1.weight_mask", "its weights are pruned under masks"),
        ("layer1.0.conv1.weight_g", "its weights are parametrised (weight or spectral normalisation)"),
        ("layer1.0.parametrizations.weight.original0", "its weights are parametrised"),
    ],
)
def test_weights_that_are_stored_in_another_way(sign: str, said: str) -> None:
    assert cause(weights_of("resnet20") | {sign: torch.ones(1)}).startswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("layer1.0.conv1.weight", "ResNets of torchvision or timm: name that network, for example torchv"),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "vision transformers of torchvision or timm"),
        ("blocks.0.attn.qkv.weight", "vision transformers of torchvision or timm"),
        ("conv_stem.weight", "EfficientNets and MobileNets of torchvision or timm"),
        ("features.0.weight", "VGGs, MobileNets and DenseNets of torchvision or timm"),
        ("stages.0.0.conv_dw.weight", "ConvNeXts and RegNets of torchvision or timm"),
    ],
)
def test_names_of_other_libraries(name: str, said: str) -> None:
    found = cause({name: torch.ones(3, 3), "head.weight": torch.ones(10, 3)})
    assert found.startswith(f"its names are those of {said}")


def test_the_same_network_under_other_names() -> None:
    own = weights_of("resnet20")
    other = {f"part{number}": value for number, value in enumerate(own.values())}
    assert cause(other) == (
        "its shapes are the network's, in the same order, so only names differ: rename them, or save it again"
    )
    assert cause({"a": torch.ones(2)}).startswith("no name is the same: it is another network, or its names have")
