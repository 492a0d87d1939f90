"""`gankd map`: cells are kept as they end and run once; the page is what the file says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gankd.bench.map_results import FILE, MapArm, MapResult, add_result, label_facts, of_cells, read_results
from gankd.bench.stats import paired_interval
from gankd.commands import map as command
from gankd.commands.map import run_map, write_page
from gankd.errors import CheckpointError, ConfigError, TrainingError
from gankd.recipes.config import DataConfig
from gankd.recipes.data import load_splits
from gankd.recipes.map_grid import GRID
from gankd.report.map import map_page, sentence
from gankd.storage import NOTES

Outcome = tuple[int, str, str]
DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_page_is_what_the_file_says(tmp_path: Path) -> None:
    written = write_page(FILE, tmp_path).read_text().partition(NOTES)[0]
    assert (DOCS / "where_it_pays.md").read_text().partition(NOTES)[0] == written


def test_two_cells_share_their_stages_and_run_once(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = GRID[:2]
    monkeypatch.setattr(command, "GRID", cells)
    changes = [*tiny, "seeds=1", "pipelines=2", "time_cap=2"]
    places = {"out": tmp_path / "runs", "file": tmp_path / "map.jsonl", "docs": tmp_path / "docs"}
    ended = command._run_cell

    def killed_in_the_second(cell: object, *args: object) -> MapResult:
        if cell == cells[1]:
            raise KeyboardInterrupt
        return ended(cell, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(command, "_run_cell", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            run_map(changes=changes, **places)  # type: ignore[arg-type]
    (base,) = read_results(places["file"])
    assert base.settings == tuple(changes)
    assert set(base.arms) == {"real_matched", "kd_matched", "real_time", "kd_time", "adjusted", "adjusted_kd"}
    assert {len(arm.test) for arm in base.arms.values()} == {len(base.facts)} == {2}
    assert base.arms["real_time"].updates > base.arms["real_matched"].updates
    assert (base.method in ("adjusted", "adjusted_kd"), base.arms[base.control].role) == (True, "control")
    assert base.gain == paired_interval(
        base.arms[base.method].test, base.arms[base.control].test, higher_is_better=True
    )
    assert base.facts[0].keys() == {
        *("teacher", "distance", "imbalance", "on_train", "first", "last", "auc", "stddev", "kept", "copies")
    }
    assert base.facts[0]["first"]["frechet"] >= 0  # a check, not a line of losses

    assert set(run_map(changes=changes, seconds=0, **places).found) == {cells[0]}  # type: ignore[arg-type]
    done = run_map(changes=changes, **places)  # type: ignore[arg-type]
    assert list(done.found) == list(cells)
    assert "0 of 2 cells are left" in done.text
    assert len(list((tmp_path / "runs" / "digits").glob("gan-*"))) == 2  # one a pipeline, for both cells
    other = done.found[cells[1]]
    assert other.arms["real_matched"] == base.arms["real_matched"]
    assert other.arms["adjusted"].test != base.arms["adjusted"].test
    assert not (tmp_path / "docs").exists()  # results of other settings are not the page's


def test_a_cell_that_fails_does_not_stop_the_others(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gankd: Callable[..., Outcome]
) -> None:
    monkeypatch.setattr(command, "GRID", GRID[:2])

    def failing(cell: object, *_: object) -> MapResult:
        raise TrainingError(f"gan: the generator of {cell} collapsed")

    monkeypatch.setattr(command, "_run_cell", failing)
    code, out, _ = gankd("map", "--file", tmp_path / "map.jsonl", "--docs", tmp_path)
    assert (code, out.count("failed: gan: the generator of")) == (1, 2)
    assert read_results(tmp_path / "map.jsonl") == []


def made(control: tuple[float, ...], method: tuple[float, ...], unit: str = "points") -> MapResult:
    def arm(name: str, role: str, values: tuple[float, ...], updates: int) -> MapArm:
        return MapArm(title=name, role=role, updates=updates, val=values, test=values)  # type: ignore[arg-type]

    cell = GRID[0]
    return MapResult(
        recipe=cell.recipe,
        factor=cell.factor,
        level="all",
        settings=cell.settings,
        task="classification",
        metric="top1" if unit == "points" else "mae",
        unit=unit,
        higher_is_better=unit == "points",
        images=300,
        labels=10,
        arms={"kd_time": arm("KD", "control", control, 800), "adjusted": arm("cGAN-KD", "method", method, 100)},
        method="adjusted",
        control="kd_time",
        facts=({}, {}),
        seconds=3.0,
        version="1",
    )


def test_labels_that_are_missing_are_a_distance() -> None:
    base, gap = (label_facts(load_splits(DataConfig(name="rotated-digits", gap=gap))) for gap in (1, 8))
    # Six bands of 2.5 degrees, each with a gap of 17.5 after it; the last gap has no band behind it.
    assert gap["distance"] == pytest.approx((5 * 17.5 / 4 + 17.5 / 2) / 6 * 17.5 / 20, rel=0.2)
    assert base["distance"] < 0.2
    assert gap["imbalance"] > base["imbalance"] > 1
    assert label_facts(load_splits(DataConfig(name="digits")))["distance"] == 0
    tail = label_facts(load_splits(DataConfig(name="digits", tail=50)))["imbalance"]
    assert tail == pytest.approx(89 / 25.2, rel=0.05)


def test_sentences_say_which_way_it_went() -> None:
    better = made((90.0, 91.0, 92.0), (92.0, 93.0, 94.1))
    assert sentence(better) == (
        "digits, base: all: cGAN-KD is better than KD, equal time (x8) by 2.03 [1.89, 2.18] points."
    )
    assert better.error == pytest.approx(9.0)
    worse = made((5.0, 5.0, 5.0), (6.0, 6.1, 6.2), "degrees")
    assert sentence(worse).endswith("cGAN-KD is worse than KD, equal time (x8) by 1.10 [0.85, 1.35] degrees.")
    assert worse.error == 5.0
    assert "no difference found between cGAN-KD and KD" in sentence(made((90.0, 91.0, 92.0), (92.0, 90.0, 92.0)))
    assert sentence(made((90.0,), (91.0,))).endswith("+1.00 points, without an interval.")


def test_the_page_says_what_is_not_run(tmp_path: Path) -> None:
    page = map_page({})
    assert page.count("not run (") == len(GRID)
    found = of_cells(GRID, [made((1.0, 2.0), (2.0, 3.5))])
    assert found == {}  # of another level
    path = tmp_path / "map.jsonl"
    add_result(path, made((1.0, 2.0), (2.0, 3.5)))
    add_result(path, made((1.0, 2.0), (2.0, 4.5)))
    assert [result.arms["adjusted"].test for result in read_results(path)] == [(2.0, 4.5)]
    path.write_text(path.read_text().replace("4.5", "9.5"))
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        read_results(path)


def test_what_is_asked_for_must_be_on_the_map(
    gankd: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the map has no recipe 'digit'"):
        run_map(only=["digit"])
    code, _, err = gankd("map", "--only", "cifar-scarce", "--time", "soon")
    assert (code, "--time takes a time such as 45m, 2h or 1h30m, got 'soon'" in err) == (2, True)
    assert "NAME=PATH" in gankd("map", "--data", "cifar.npz")[2]
    code, out, err = gankd("map", "--only", "cifar-scarce", "--file", tmp_path / "none.jsonl")
    assert code == 0
    assert "left out without their images: cifar-scarce" in err
    assert "5 of 5 cells are left, 14.6 core hours" in out
