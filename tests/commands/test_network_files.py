"""Teachers that are whole networks in files, from the command line: used at once, only if trusted, or refused early."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gankd import seals
from gankd.recipes.data import load_splits
from gankd.recipes.ready import RECIPES

Outcome = tuple[int, str, str]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.usefixtures("nothing_trusted"),
]


@pytest.fixture
def nothing_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(seals, "_trusted", set())
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def prototypes() -> nn.Module:
    """A classifier of digits, of which the mean image of each class is known: it needs no training."""
    train = load_splits(RECIPES["digits"]().data).train
    pixels = train.images.flatten(1).float() / 255
    means = torch.stack([pixels[train.labels == label].mean(0) for label in range(10)])  # (10, 64)
    linear = nn.Linear(64, 10)
    linear.load_state_dict({"weight": 8 * means, "bias": -4 * means.square().sum(1)})  # -4 |x - mean|^2 + 4 |x|^2
    return nn.Sequential(nn.Flatten(), linear).eval()


AS_IT_IS = ("--set", "teacher.mean=[0]", "--set", "teacher.std=[1]")


def test_an_onnx_file_teaches_a_run(
    prototypes: nn.Module, gankd: Callable[..., Outcome], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.numpy_helper.from_array
    weight, bias = (value.detach().numpy() for value in prototypes.parameters())
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probs"]),
    ]
    taken = helper.make_tensor_value_info("x", 1, (16, 1, 8, 8))  # batches of 16
    given = helper.make_tensor_value_info("probs", 1, (16, 10))
    graph = helper.make_graph(nodes, "g", [taken], [given], [numbers(weight, "w"), numbers(bias, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "big.onnx").write_bytes(model.SerializeToString())

    settings = [word for text in tiny if not text.startswith("teacher.model") for word in ("--set", text)]
    settings += ["--set", "teacher.model=big.onnx", *AS_IT_IS, "--seeds", "1"]
    where = ("--out", "run", "--workers", "1", "--arms", "real_matched,adjusted_kd")
    code, _, err = gankd("run", "digits", *settings, *where)
    assert code == 2
    assert "ratio.features=teacher reads the embedding of the teacher" in err
    settings += ["--set", "ratio.features=classifier"]
    code, _, err = gankd("run", "digits", *settings, *where)
    assert code == 2
    assert "ends in a softmax" in err
    assert "set teacher.ends_in=softmax" in err
    settings += ["--set", "teacher.ends_in=softmax"]
    code, out, err = gankd("run", "digits", *settings, *where)
    assert code == 0, err
    assert "cGAN-KD" in out
    code, _, err = gankd("resume", "run")  # needs no trust
    assert code == 0, err


def test_a_torchscript_file_runs_only_if_it_is_trusted(
    prototypes: nn.Module, gankd: Callable[..., Outcome], refused: Callable[..., str], tmp_path: Path
) -> None:
    torch.jit.script(prototypes).save("big.pt")
    words = ("teach", "digits", "--set", "teacher.model=big.pt", *AS_IT_IS, "--out", "run")
    said = refused(*words)
    assert said.startswith(f"{tmp_path / 'big.pt'} is a network with its code, which is not run unasked")
    assert "add --trust" in said
    assert not (tmp_path / "run").exists()
    code, out, err = gankd(*words, "--trust")
    assert code == 0, err
    assert "top1" in out


def test_a_student_is_not_a_finished_network(refused: Callable[..., str]) -> None:
    said = refused("student", "digits", "--set", "student.model=small.onnx")
    assert "small.onnx is a finished network, which is not trained; name one of the zoo or module:name" in said
    said = refused("teach", "digits", "--set", "teacher.model=big.onnx", "--set", "teacher.weights=w.pt")
    assert "is a whole network with its weights; leave teacher.weights out" in said
    assert "no file" in refused("teach", "digits", "--set", "teacher.model=absent.onnx")
