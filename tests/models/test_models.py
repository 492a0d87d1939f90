"""How networks are found and built: the smallest, the user's own, heads, weights from the seed, errors and remedies."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gankd.errors import ModelError
from gankd.models import ZOO, build_net
from gankd.models.resnet import BasicBlock
from gankd.seeds import rng

BUFFERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def build(name: str, seed: int = 0, channels: int = 3, size: int = 8, outputs: int = 5) -> nn.Module:
    return build_net(name, in_channels=channels, image_size=size, num_outputs=outputs, seed=seed)


SMALL = [name for name in ZOO if name.startswith("cnn") or name in ("resnet8", "resnet14", "resnet20", "resnet8x2")]


@pytest.mark.parametrize("name", SMALL)
def test_the_smallest_at_the_smallest_sizes(name: str) -> None:
    for channels, size, outputs in ((1, 8, 1), (3, 16, 10), (1, 28, 10), (3, 32, 7)):
        net = build(name, channels=channels, size=size, outputs=outputs)
        images = torch.rand((2, channels, size, size), generator=rng(0, "x")).requires_grad_()
        found = net(images)
        assert found.shape == (2, outputs)
        found.sum().backward()
        assert images.grad is not None
        assert (images.grad.abs().amax((1, 2, 3)) > 0).all()
        assert all(parameter.grad is not None for parameter in net.parameters())  # none is left out


def size_of(name: str) -> int:
    return sum(parameter.numel() for parameter in build(name, size=32, outputs=10).parameters())


def test_sizes_of_our_own() -> None:
    for small, large in (("cnn4", "cnn8"), ("cnn8", "cnn16"), ("cnn16", "cnn32")):
        assert size_of(small) < size_of(large)
    for narrow, wide in (("resnet8", "resnet8x2"), ("resnet14", "resnet14x2"), ("resnet20", "resnet20x2")):
        assert size_of(wide) / size_of(narrow) == pytest.approx(4, rel=0.05)


def test_stored_resnets_still_fit() -> None:
    """Names, and the order in which weights are drawn, of networks that runs have stored."""
    net = build("resnet8x2", seed=3, size=32)
    keys = list(net.state_dict())
    assert keys[:3] == ["stem.0.weight", "stem.1.weight", "stem.1.bias"]
    assert keys[-7:] == [*(f"blocks.2.shortcut.1.{name}" for name in BUFFERS), "head.weight", "head.bias"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for inside, outside, side in ((3, 32, 3), (32, 32, 3), (32, 32, 3), (32, 64, 3), (64, 64, 3), (32, 64, 1)):
            drawn = nn.Conv2d(inside, outside, side, bias=False).weight
    assert torch.equal(net.state_dict()["blocks.1.shortcut.0.weight"], drawn)


def test_mlp_in_the_name_gives_the_regression_head() -> None:
    net = build("resnet8+mlp", size=32, outputs=1)
    plain = build("resnet8", size=32, outputs=1)
    hidden = 64 * 512 + 512 * 512 + 2 * 512 + 4 * 512
    features = sum(parameter.numel() for parameter in plain.parameters()) - (64 + 1)
    assert sum(parameter.numel() for parameter in net.parameters()) == features + hidden + (512 + 1)
    assert torch.equal(net.state_dict()["stem.0.weight"], plain.state_dict()["stem.0.weight"])
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet8+mpl",
            r"no head 'mpl' for model resnet8; write resnet8\+mlp, resnet8\+mlp128, or resnet8 for its own",
        ),
        ("resnt8+mlp", "no model 'resnt8'; did you mean resnet8"),
        ("nets_of_mine:fixed+mlp", "model nets_of_mine:fixed does not end in an nn.Linear of 5 outputs"),
    ],
)
@pytest.mark.usefixtures("my_nets")
def test_heads_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(name)


def test_a_residual_block_whose_convolutions_are_zero_is_its_shortcut() -> None:
    block = BasicBlock(4, 4, stride=1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn((2, 4, 8, 8), generator=rng(0, "x"))
    assert torch.equal(block(x), x.relu())


def test_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = build("cnn4", seed=3), build("cnn4", seed=3), build("cnn4", seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ModelError) as error:
        build("restnet20")
    assert str(error.value).startswith("no model 'restnet20'; did you mean resnet20")
    assert str(error.value).endswith("; for your own network write module:name")
    with pytest.raises(ModelError, match="known: cnn16, .*wrn_40_2; for your own"):
        build("?")


MINE = """
import torch
from torch import nn

WIDTH = 3

class Plain(nn.Module):
    def __init__(self, num_outputs, in_channels):
        super().__init__()
        self.head = nn.Linear(in_channels, num_outputs)
    def forward(self, x):
        return self.head(x.mean((2, 3)))

def everything(**sizes):
    net = Plain(sizes["num_outputs"], sizes["in_channels"])
    net.sizes = sizes
    return net

class Renamed(nn.Module):
    def __init__(self, img_size=224, in_chans=3, n_classes=1000, **rest):
        super().__init__()
        self.sizes, self.rest = (img_size, in_chans, n_classes), rest

def fixed():
    return nn.Flatten()

def needs_more(num_outputs, depth):
    return nn.Flatten()

def broken(image_size):
    raise KeyError("no weights for " + str(image_size))

def talkative():
    raise ValueError("no weights\\nat all")

def other():
    return "net"

def leaving():
    raise SystemExit(0)

def interrupting():
    raise KeyboardInterrupt

def waiting():
    import os, signal, time
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
"""


@pytest.fixture
def my_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "nets_of_mine.py").write_text(MINE)
    (tmp_path / "nets_with_a_slip.py").write_text("def net(:\n    pass\n")
    (tmp_path / "nets_that_fail.py").write_text("1 / 0\n")
    (tmp_path / "nets_that_leave.py").write_text("import sys; sys.exit(3)\n")
    yield "nets_of_mine"
    for name in ("nets_of_mine", "nets_with_a_slip", "nets_that_fail"):
        sys.modules.pop(name, None)


def test_a_users_own_network_gets_the_sizes_that_it_names(my_nets: str) -> None:
    plain = build(f"{my_nets}:Plain", channels=3, outputs=5)
    assert plain(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    sizes = {"in_channels": 3, "image_size": 8, "num_outputs": 5}
    assert build(f"{my_nets}:everything").sizes == sizes
    renamed: Any = build(f"{my_nets}:Renamed", channels=1, size=16, outputs=5)
    assert (renamed.sizes, renamed.rest) == ((16, 1, 5), {})
    assert isinstance(build(f"{my_nets}:fixed"), nn.Flatten)
    again = build(f"{my_nets}:Plain", seed=0)
    assert torch.equal(plain.head.weight, again.head.weight)  # type: ignore[union-attr, arg-type]
    assert build(f"{my_nets}:Plain+mlp", outputs=1)(torch.zeros(2, 3, 8, 8)).shape == (2, 1)


@pytest.mark.usefixtures("my_nets")
def test_arguments_in_the_name_reach_the_constructor() -> None:
    sizes = build("nets_of_mine:everything(depth=3, kinds=['a:b', 'c'])").sizes
    assert sizes == {"in_channels": 3, "image_size": 8, "num_outputs": 5, "depth": 3, "kinds": ["a:b", "c"]}
    assert isinstance(build("nets_of_mine:needs_more(depth=2)"), nn.Flatten)
    with pytest.raises(ModelError, match=r"the arguments are not plain values by name, as in nets_of_mine:fixed"):
        build("nets_of_mine:fixed(open('x'))")
    said = r"cannot be built with {'num_outputs': 5}: .*'depth' .set by itself: in_channels, in_chans, .* student.args"
    with pytest.raises(ModelError, match=said):
        build("nets_of_mine:needs_more")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets_of_mine:Plan", "no 'Plan' in module nets_of_mine; did you mean Plain?"),
        ("nets_of_mine:WIDTH", "nets_of_mine:WIDTH is a int, expected a class or function"),
        ("nets_of_mine:needs_more", r"model nets_of_mine:needs_more cannot be built with .*'depth'"),
        ("nets_of_mine:broken", r"cannot be built with {'image_size': 8}: 'no weights for 8'"),
        ("nets_of_mine:talkative", "cannot be built with {}: no weights$"),
        ("nets_of_mine:leaving", r"nets_of_mine:leaving cannot be built with {}: it raises SystemExit 0$"),
        (
            "nets_of_mine:interrupting",
            "cannot be built with {}: it raises KeyboardInterrupt$",
        ),
        ("nets_that_leave:net", "cannot import 'nets_that_leave' .*: it raises SystemExit 3$"),
        ("sys:exit", "model sys:exit cannot be built with .*: it raises SystemExit$"),
        ("nets_of_mine:other", "model nets_of_mine:other gave a str, expected a torch.nn.Module"),
        ("nets_of_yours:Plain", "cannot import 'nets_of_yours' for model nets_of_yours:Plain: No module named"),
        ("nets_with_a_slip:net", "cannot import 'nets_with_a_slip' .*: invalid syntax"),
        ("nets_that_fail:net", "cannot import 'nets_that_fail' .*: division by zero"),
        (":Plain", "cannot import '' "),
    ],
)
@pytest.mark.usefixtures("my_nets")
def test_what_can_be_wrong_with_a_users_network(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        build(name)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("my_nets")
def test_ctrl_c_while_a_users_network_is_built_is_no_error_of_the_network() -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            build("nets_of_mine:waiting")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_current_folder_can_be_imported_from_only_while_own_code_is(my_nets: str) -> None:
    build(f"{my_nets}:Plain")
    with pytest.raises(ModelError):
        build(f"{my_nets}:broken")
    with pytest.raises(ModelError):
        build("nets_that_fail:net")
    assert "" not in sys.path
