"""Students as programs of ExecuTorch. The library has an environment of its own: `make nightly` installs it there."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gankd.errors import ModelError
from gankd.models.contract import ImageModel
from gankd.models.exported import LARGEST_SIDE, open_exported, to_executorch, write_executorch
from gankd.models.portable import Portable
from gankd.recipes import Recipe
from gankd.tasks import Classification

Outcome = tuple[int, str, str]


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    model = ImageModel(torch.nn.Flatten(), size=2, mean=torch.zeros(1), std=torch.ones(1))
    with pytest.raises(ModelError, match=r"pip install 'gankd\[executorch\]', best in an environment of its own"):
        to_executorch(Portable(model, Classification(num_classes=4)), 1, "net")


def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "student.pte"
    write_executorch(path, b"program", {"task": {}})
    content = path.read_bytes()
    for damaged in (content[:-1], content[:5], b"P" + content[1:], b""):
        path.write_bytes(damaged)
        assert "was not written by gankd export, or has changed" in refused("predict", path, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_program_gives_what_pytorch_gives(
    digits_run: tuple[Recipe, Path], gankd: Callable[..., Outcome], tmp_path: Path
) -> None:
    pytest.importorskip("executorch.exir", reason="pip install 'gankd[executorch]'")
    path, plain = tmp_path / "student.pte", tmp_path / "student.safetensors"
    for to in (path, plain):
        code, out, _ = gankd("export", digits_run[1], "--to", to)
        assert code == 0
    assert "largest difference of an output" in out
    ours, theirs = open_exported(path, threads=1), open_exported(plain)
    assert ours.card["format"] == "executorch"
    assert ours.limit is not None
    assert theirs.limit is not None
    assert ours.limit.limit == pytest.approx(theirs.limit.limit, abs=1e-5)
    random = np.random.default_rng(0)
    for sides in ((8, 8), (1, 1), (57, 31), (1, LARGEST_SIDE)):
        images = random.integers(256, size=(3, 1, *sides), dtype=np.uint8)
        np.testing.assert_allclose(ours.run(images), theirs.run(images), atol=1e-5)
    from executorch.runtime import Runtime  # as on a device, without this package

    image = torch.from_numpy(images[:1])
    (outputs,) = Runtime.get().load_program(path).load_method("forward").execute([image])
    np.testing.assert_allclose(outputs.numpy(), theirs.run(images[:1]), atol=1e-5)
    code, out, _ = gankd("bench-latency", path, "--seconds", 0.1, "--batches", 1)
    assert (code, "1 thread" in out) == (0, True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_network_that_cannot_be_traced_is_named() -> None:
    pytest.importorskip("executorch.exir", reason="pip install 'gankd[executorch]'")

    class Asks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    model = ImageModel(Asks(), size=2, mean=torch.zeros(1), std=torch.ones(1))
    with pytest.raises(ModelError, match="my_nets:Asks has no counterpart in ExecuTorch"):
        to_executorch(Portable(model, Classification(num_classes=4)), 1, "my_nets:Asks")
