"""A committed cell trained anew: equal to the bit, within the interval, or not."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from gankd.bench.grid import CELLS, CellResult, append_cell, read_cells
from gankd.commands.bench import bench
from gankd.commands.verify import Verification, _beside, _find, verify
from gankd.errors import CheckpointError, ConfigError, RunError
from gankd.recipes.published import TABLES, Pair
from gankd.storage import HASH

NAME, CELL = "cifar10-c10k", "mobilenet_v2-vgg11/cGAN-KD/1"


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench folder; do not change it."""
    folder = tmp_path_factory.mktemp("bench") / "b"
    bench(NAME, folder, scale="tiny", seeds=2, pairs=["mobilenet_v2-vgg11"], methods=["cGAN-KD"], timed=False)
    return folder


def test_the_same_machine_finds_the_same_bits(committed: Path, tmp_path: Path) -> None:
    found = verify(NAME, CELL, committed / "bench.json")
    assert (found.verdict, found.exit_code, found.seeds) == ("bit-equal", 0, 2)
    assert found.again.stage == found.committed.stage
    assert found.text.endswith("bit-equal")
    changed = []
    for line in (committed / CELLS).read_text().splitlines():
        cell = {name: value for name, value in json.loads(line).items() if name != HASH}
        cell["test"]["top1"] += 30.0 + 0.01 * cell["seed"]
        changed.append(json.dumps(cell))
    (tmp_path / CELLS).write_text("\n".join(changed))
    found = verify(NAME, CELL, tmp_path / CELLS, out=tmp_path / "again")
    assert (found.verdict, found.exit_code) == ("differs", 1)
    assert found.to_dict()["verdict"] == "differs"
    assert list((tmp_path / "again").glob("student-adjusted-1-*"))
    assert len(list((tmp_path / "again").glob("student-*"))) == 1  # that cell alone
    with pytest.raises(ConfigError, match="again exists already; verify needs a new --out"):
        verify(NAME, CELL, tmp_path / CELLS, out=tmp_path / "again")


def test_an_interval_needs_more_than_one_seed(committed: Path) -> None:
    cell: CellResult = read_cells(committed / CELLS)[0]

    def against(value: float, low: float, high: float) -> Verification:
        return Verification(cell, replace(cell, test=cell.test | {"top1": value}), "top1", low, high, 2)

    own = cell.test["top1"]
    assert against(own, math.nan, math.nan).verdict == "bit-equal"
    assert against(own + 1, own - 1, own + 2).verdict == "within the interval"
    assert against(own + 1, own - 1, own + 2).exit_code == 0
    assert against(own + 3, own - 1, own + 2).verdict == "differs"
    assert "which are trained again here" in against(own + 3, own - 1, own + 2).text
    few = against(own + 1, own - 1, own + 2)
    assert "2 seeds give a wide interval" in few.text
    assert "wide" not in replace(few, seeds=4).text
    alone = against(own + 1, math.nan, math.nan)
    assert alone.verdict == "differs"
    assert "only a bit-equal student agrees" in alone.text
    other = replace(alone, again=replace(alone.again, stage="0", versions=cell.versions | {"torch": "9"}))
    assert "settings or images differ from those" in other.text
    assert "torch 9 (was" in other.text


def test_cells_of_one_name_are_told_apart(committed: Path, tmp_path: Path) -> None:
    """One folder may hold a cell of other settings, of another scale, and of images as they were before."""
    cells = read_cells(committed / CELLS)
    mine = next(cell for cell in cells if "/".join(map(str, cell.key)) == CELL)
    changed = replace(mine, changes=("gan.steps=7",), stage="aaaa" + mine.stage)
    small = replace(mine, scale="small", stage="bbbb" + mine.stage)
    stale = [replace(cell, stage="cccc" + cell.stage) for cell in cells if cell.key == (*mine.key[:2], 0)]
    path = tmp_path / CELLS
    for cell in (*cells, changed, small, *stale):
        append_cell(path, cell)
    with pytest.raises(ConfigError, match=f"holds '{CELL}' 3 times; name one: .*small.*gan.steps=7|gan.steps=7.*small"):
        verify(NAME, CELL, path)
    known = read_cells(path)
    for cell in (mine, changed, small):
        assert _find(known, f"{CELL}/{cell.stage[:8]}", path) == cell
    assert _beside(known, mine) == [mine]  # its other seed is there twice
    assert _beside(known, small) == [small]
    assert {cell.seed for cell in _beside(cells, mine)} == {0, 1}


def test_what_is_not_committed_is_refused(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no cell 'mobilenet_v2-vgg11/cGAN-KD/7'"):
        verify(NAME, "mobilenet_v2-vgg11/cGAN-KD/7", committed / CELLS)
    with pytest.raises(ConfigError, match="has no cells of cifar10-c20k"):
        verify("cifar10-c20k", CELL, committed / CELLS)
    with pytest.raises(CheckpointError, match="no results"):
        verify(NAME, CELL, tmp_path / CELLS)
    broken = replace(TABLES[NAME], pairs=(Pair(teacher="mobilenet_v2", student="no_such:Net"),), printed={})
    monkeypatch.setitem(TABLES, NAME, broken)
    line = json.loads((committed / CELLS).read_text().splitlines()[-1]) | {"pair": broken.pairs[0].name}
    line.pop(HASH)
    (tmp_path / CELLS).write_text(json.dumps(line))
    with pytest.raises(RunError, match="cannot be trained: .*no_such"):
        verify(NAME, f"{line['pair']}/{line['method']}/{line['seed']}", tmp_path / CELLS)
