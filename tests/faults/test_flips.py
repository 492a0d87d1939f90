"""One changed byte in any file of a run is found when the file is used next, or changes nothing."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.bench.grid import CellResult, append_cell, read_cells
from gankd.config import to_dict
from gankd.data import store
from gankd.errors import GankdError
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.models.exported import open_exported, to_onnx, to_torch_export, write_onnx, write_torch_export
from gankd.models.files import load_model
from gankd.models.portable import Portable
from gankd.recipes import Recipe
from gankd.recipes.config import StudentConfig
from gankd.runs import Run, Stage
from gankd.storage import hashed_json, load_state, read_json, save_state, write_hashed_json
from gankd.synthetic import SyntheticSet
from gankd.tasks import Classification, task_to_dict
from gankd.virtual import VirtualConfig
from gankd.virtual.teacher import VirtualTeacher

FLIPS = 200 if "NIGHTLY" in os.environ else 40
"""Changed bytes of each kind of file: `make nightly` tries more."""


def flipped(path: Path, count: int) -> Iterator[int]:
    """Change one bit at random places, one at a time; the file is as it was in the end."""
    content, chance = path.read_bytes(), random.Random(path.name)
    for _ in range(count):
        place = chance.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        yield place
    path.write_bytes(content)


def plain(value: Any) -> Any:
    """Tensors as lists, for comparisons."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def state_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "model.safetensors"
    save_state(path, {"weight": torch.rand(40, 5), "step": 3, "text": ["a", None, 1.5]})
    return path, lambda: load_state(path)


def json_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "run.json"
    write_hashed_json(path, {"recipe": {"lr": 0.125, "names": ["a", "b"]}, "arms": None, "version": "1"})
    return path, lambda: {name: read_json(path)[name] for name in ("recipe", "arms", "version")}


def stage_of(folder: Path) -> Stage:
    return Run(folder).stage("teacher", StudentConfig(), {"data": "x"})


def trained(folder: Path, *, finish: bool) -> Path:
    stage, net = stage_of(folder), torch.nn.Linear(3, 2)
    stage.checkpoint_seconds = 0.0
    for _ in stage.steps(100, net=net):
        stage.report(8, loss=net.weight.detach().sum())
    if finish:
        stage.finish(top1=12.5)
    assert stage.folder is not None
    return stage.folder


def finished_file(name: str) -> Callable[[Path], tuple[Path, Callable[[], Any]]]:
    def made(folder: Path) -> tuple[Path, Callable[[], Any]]:
        path = trained(folder, finish=True) / name

        def read() -> Any:
            stage = stage_of(folder)
            return stage.result, stage.seconds, stage.history, stage.description

        return path, read

    return made


def unfinished_file(name: str) -> Callable[[Path], tuple[Path, Callable[[], Any]]]:
    def made(folder: Path) -> tuple[Path, Callable[[], Any]]:
        home = trained(folder, finish=False)
        path, kept = home / name, (home / "metrics.jsonl").read_bytes()

        def read() -> Any:
            if name != "metrics.jsonl":
                (home / "metrics.jsonl").write_bytes(kept)
            stage, net = stage_of(folder), torch.nn.Linear(3, 2)
            steps = list(stage.steps(100, net=net))
            return steps, stage.history, plain(net.state_dict())

        return path, read

    return made


def cell_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "cells.jsonl"
    cell = {"table": "t", "scale": "tiny", "changes": ("a=1",), "pair": "p", "method": "m", "seed": 0}
    cell |= {"teacher": None, "student": "cnn4", "loss": "KD", "test": {"top1": 71.25}, "val": {"top1": 70.5}}
    cell |= {"updates": 10, "seconds": 1.0, "published": None, "stage": "abc", "versions": {"torch": "2"}}
    append_cell(path, CellResult(**cell))  # type: ignore[arg-type]
    return path, lambda: [to_dict(found) for found in read_cells(path)]


def decoded_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """Images in the cache folder; a file without a hash is written again, by a function that gives equal images."""

    def read() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "available_memory", lambda: 0)
            patch.setenv("GANKD_CACHE", str(folder))
            return store.build((3, 1, 4, 4), lambda: "key", lambda target: target.fill(7)).tolist()

    read()
    return folder / "key" / store.IMAGES, read


def virtual_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """What `gankd vkd peers --exchange` reads."""
    path = folder / "virtual.safetensors"
    VirtualTeacher.untrained(Classification(num_classes=3), VirtualConfig(width=4, z_dim=2)).save(path)
    return path, lambda: plain(VirtualTeacher.load(path).generator.state_dict())


KINDS = {
    "weights": state_file,
    "settings": json_file,
    "result of a stage": finished_file("done.json"),
    "settings of a stage": finished_file("config.json"),
    "history of a stage": finished_file("metrics.jsonl"),
    "checkpoint": unfinished_file("checkpoint.safetensors"),
    "history of a checkpoint": unfinished_file("metrics.jsonl"),
    "cell of a table": cell_file,
    "decoded images": decoded_file,
    "virtual teacher": virtual_file,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_is_refused_or_changes_nothing(kind: str, tmp_path: Path) -> None:
    path, read = KINDS[kind](tmp_path)
    expected, refusals = plain(read()), 0
    for place in flipped(path, FLIPS):
        try:
            found, said = plain(read()), ""
        except GankdError as error:
            found, said = expected, str(error)
            refusals += 1
        refusals += found == []  # a line of a table is left out
        assert found in (expected, []), (place, path.read_bytes()[max(place - 20, 0) : place + 20])
        assert not said or str(tmp_path) in said  # which file
    assert refusals > 0.7 * FLIPS
    assert plain(read()) == expected


@pytest.mark.parametrize("part", ["images", "labels", "teacher_outputs", "log_ratio", "manifest"])
def test_a_changed_byte_in_a_pool_is_refused(part: str, digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    (found,) = digits_run[1].glob("synth-*/pool")
    pool = Path(shutil.copytree(found, tmp_path / "pool"))
    path = next(pool.glob(f"{part}*"))
    refusals = 0
    for _ in flipped(path, FLIPS):
        try:
            SyntheticSet(pool).check()
        except GankdError as error:
            refusals += bool(re.search(f"{part}.*(generate|run) again", str(error)))
    # In the manifest one letter of the hash's name may go: then nothing else has changed.
    assert refusals == FLIPS if part != "manifest" else refusals > 0.9 * FLIPS
    SyntheticSet(pool).check()


def test_every_file_of_a_run_is_covered(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flip in the middle of each file: a file that gankd writes without a hash would pass."""
    from gankd.commands.files import check_files

    folder = Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    monkeypatch.setenv("GANKD_CACHE", str(tmp_path / "run" / "cache"))
    decoded_file(tmp_path / "run" / "cache")
    assert check_files(folder).exit_code == 0
    assert not check_files(folder).unchecked
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", ".lock", "report.html")
    ]
    assert len(paths) > 60
    for path in paths:
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        path.write_bytes(changed)
        found = check_files(folder)
        assert found.exit_code == 1, path
        assert [name for name in found.damaged if str(path.relative_to(folder)) in name], (path, found.damaged)
        path.write_bytes(content)
    assert check_files(folder).exit_code == 0


def test_an_exported_student_carries_a_hash(
    digits_run: tuple[Recipe, Path], gankd: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "student.safetensors"
    assert gankd("export", digits_run[1], "--to", path)[0] == 0
    for _ in flipped(path, 20):
        with pytest.raises(GankdError, match=r"student\.safetensors"):
            load_model(path)
    load_model(path)


@pytest.mark.slow
def test_a_changed_byte_in_an_exported_graph(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    net = build_net("cnn4", in_channels=1, image_size=8, num_outputs=3, seed=0)
    model, task = ImageModel(net, size=8, mean=torch.ones(1), std=torch.ones(1)), Classification(num_classes=3)
    graph, card = Portable(model.eval(), task).eval(), {"task": task_to_dict(task), "size": 8, "channels": 1}
    write_onnx(tmp_path / "student.onnx", to_onnx(graph, 1, "the student"), card)
    write_torch_export(tmp_path / "student.pt2", to_torch_export(graph, 1, "the student"), card)
    pixels = torch.arange(128).byte().reshape(2, 1, 8, 8).numpy()

    def answer(path: Path) -> list[Any]:
        found = open_exported(path, trust=True)
        return [found.card, found.run(pixels).tolist()]

    for path in (tmp_path / "student.onnx", tmp_path / "student.pt2"):
        expected, refusals = answer(path), []
        for place in flipped(path, FLIPS // 4):  # each takes as long as an export
            try:
                assert answer(path) == expected, place  # between the members of an archive is nothing that is read
            except GankdError as error:
                refusals.append(str(error))
        assert all(path.name in said and "export" in said for said in refusals)
        assert len(refusals) >= (FLIPS // 4 if path.suffix == ".onnx" else 1)


def test_text_with_a_hash() -> None:
    text = hashed_json({"a": 1})
    assert list(json.loads(text)) == ["a", "blake2b"]
