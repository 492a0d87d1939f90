"""Published tables run end to end on tiny data: cells, controls, what fails, what is resumed."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gankd.recipes.cgan_kd
import gankd.recipes.generated
import gankd.recipes.teacher
from gankd.bench.budget import FACTORS, rounded_factor
from gankd.bench.grid import CELLS, LARGEST_FACTOR, Grid, append_cell, base_recipe, read_cells
from gankd.bench.stats import paired_interval
from gankd.commands.bench import BenchResult, bench
from gankd.errors import CheckpointError, ConfigError, DataError, GankdError, TrainingError
from gankd.models.contract import ImageModel
from gankd.recipes.config import TeacherConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.published import TABLES, Pair, find_table
from gankd.recipes.published.table import NOKD, Closed
from gankd.recipes.stages import declare
from gankd.report.bench import write_bench
from gankd.runs import Run
from gankd.storage import read_json

CLASSES = "cifar10-c10k"
PAIR = "mobilenet_v2-vgg11"


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """A finished table; do not change its folder."""
    rows = ["BLKD", "cGAN-KD", "cGAN-KD+TAKD"]
    return bench(CLASSES, tmp_path_factory.mktemp("bench") / "c", scale="tiny", seeds=2, pairs=[PAIR], methods=rows)


def stages(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}


def test_rows_stand_beside_printed_numbers_and_controls(classes: BenchResult) -> None:
    assert classes.exit_code == 0
    cells = classes.cells
    assert {method for _, method, _ in cells} >= {"NOKD at equal updates", "KD at equal updates", "BLKD", "cGAN-KD"}
    own = cells[PAIR, "cGAN-KD", 0]
    assert own.published == pytest.approx(100 - 14.32)
    assert (own.student, own.teacher, own.loss) == ("cnn4", None, "Label")
    assert cells[PAIR, "BLKD", 0].teacher == "cnn16"  # the pair's, while cnn8 filters
    assert cells[PAIR, "BLKD", 0].updates == own.updates // 2
    for each in classes.comparisons:
        values = [[cells[PAIR, name, seed].test["top1"] for seed in (0, 1)] for name in (each.method, each.control)]
        assert each.gain == paired_interval(*values, higher_is_better=True)
        assert each.method in ("cGAN-KD", "cGAN-KD+TAKD")  # published baselines have fewer updates
        assert not each.adjusted < each.p
    folder = classes.page.parent
    for cell in cells.values():
        (student,) = folder.glob(f"student-*-{cell.seed}-{cell.stage[:8]}")
        assert cell.seconds == read_json(student / "done.json")["seconds"] > 0
    assert len(list(folder.glob("teacher-*"))) == 2
    assert [len(list(folder.glob(f"{name}-*"))) for name in ("gan", "ratio", "synth")] == [1, 1, 1]
    assert len(list(folder.glob("assistant-*"))) == 1
    page = measured(classes).markdown
    assert "| cGAN-KD+TAKD |" in page
    assert "87.72" in page
    assert TABLES[CLASSES].protocol in page
    assert {tuple(cell["versions"]) for cell in read_json(folder / "bench.json")["cells"]}
    assert read_cells(folder / "bench.json") == read_cells(folder / CELLS) == list(cells.values())


def measured(tiny: BenchResult) -> BenchResult:
    """The result as of a scale at which students are measured."""
    return replace(tiny, scale="small")


def test_the_page_shows_gains_printed_numbers_and_curves(classes: BenchResult, tmp_path: Path) -> None:
    write_bench(measured(classes).html, tmp_path / "bench.html")
    page = (tmp_path / "bench.html").read_text()
    assert page.count('<ul class="forest">') == 1
    for each in classes.comparisons:
        assert each.gain.text(2).replace("-", "\u2212") in page
    assert "Beside the printed numbers" in page
    assert "Along the training, seed 0" in page
    steps, values = classes.curves[PAIR, "cGAN-KD"]
    own = classes.cells[PAIR, "cGAN-KD", 0]
    assert steps[-1] == own.updates
    assert values[-1] == pytest.approx(own.val["top1"])
    assert page.count('role="img"') == 2
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is loaded from elsewhere
    bars = [bar for row in measured(classes).html.pairs[0].gains for bar in row.bars]
    assert all(bar.interval.diff == pytest.approx(sum(bar.points) / 2) for bar in bars)


def test_a_scale_whose_students_are_at_chance_shows_runs_and_seconds(classes: BenchResult) -> None:
    pages = (classes.page.read_text(), classes.page.with_suffix(".md").read_text(), classes.text)
    for page in pages:
        assert "only runs and seconds are shown" in page
        assert "87.72" not in page
        assert "95 % interval" not in page
        assert "teacher " not in page.split("cGAN-KD+TAKD")[0].split("here cnn16")[-1]
    assert "<svg" not in pages[0]
    assert "| cGAN-KD+TAKD | 2 | 6 |" in pages[1]


def test_the_time_matched_control_fits_in_the_row_s_seconds(classes: BenchResult) -> None:
    row, control = classes.cells[PAIR, "cGAN-KD", 0], classes.cells[PAIR, "NOKD at equal updates", 0]
    factor = classes.factors[PAIR, "cGAN-KD"]
    assert factor in {value / 2 for value in range(2, 9)}
    assert row.updates == control.updates
    title = f"NOKD at equal time x{factor:g}" if factor > 1 else control.method
    assert classes.cells[PAIR, title, 1].updates == round(factor * row.updates)
    assert [rounded_factor(value, 4.0) for value in (0.3, 1.0, 1.01, 2.5, 2.6, 9.0)] == [1.0, 1.0, 1.5, 2.5, 3.0, 4.0]


def test_what_a_kill_leaves_is_gone_on_with(classes: BenchResult, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(classes.page.parent, tmp_path / "bench"))
    lost = ["student-adjusted-1-*", "student-kd_matched-0-*"]
    for path in (path for pattern in lost for path in folder.glob(pattern)):
        shutil.rmtree(path)
    lines = (folder / CELLS).read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["method"] != "cGAN-KD"]
    (folder / CELLS).write_text("\n".join(kept) + '\n{"table": "cifar10-c1')  # the line that a kill cut short
    before, factors = stages(folder), read_json(folder / FACTORS)
    rows = ["BLKD", "cGAN-KD", "cGAN-KD+TAKD"]
    again = bench(CLASSES, folder, scale="tiny", seeds=2, pairs=[PAIR], methods=rows)
    assert {key: cell.test for key, cell in again.cells.items()} == {
        key: cell.test for key, cell in classes.cells.items()
    }
    after = stages(folder)
    assert {path: after[path] for path in before} == before
    assert len(after) == len(stages(classes.page.parent))
    assert read_json(folder / FACTORS) == factors  # measured once
    assert sorted(cell.key for cell in read_cells(folder / CELLS)) == sorted(again.cells)


def test_a_pool_too_small_for_a_row_fails_it(classes: BenchResult, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(classes.page.parent, tmp_path / "bench"))
    changes = ["select.count=400", "synth.pool=768"]  # 768 x 0.5 x 0.7 are left
    rows = ["cGAN-KD"]
    found = bench(CLASSES, folder, scale="tiny", seeds=1, pairs=[PAIR], methods=rows, changes=changes, timed=False)
    reason = found.failures[PAIR, "cGAN-KD", 0]
    assert re.match(r"2\d\d of 768 generated images are left .*, expected 400; raise synth.pool or", reason)
    assert {method for _, method, _ in found.cells} == {"NOKD at equal updates", "KD at equal updates"}


def test_the_share_of_generated_images_in_a_row_s_time_follows_the_plan(
    classes: BenchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder, more planned students share the same cost; what was measured for fewer does not stand."""
    folder = Path(shutil.copytree(classes.page.parent, tmp_path / "bench"))
    table = TABLES[CLASSES]
    monkeypatch.setattr(Grid, "run", lambda *_: None)
    found = []
    for students in (1, 100, 1):
        made = Experiment.open(base_recipe(table, "tiny", None, ()), Run(folder))
        grid = Grid(table, "tiny", (), made, students=students)
        grid.results = dict(classes.cells)
        grid.run_equal_time(table.pair(PAIR), [table.arm("cGAN-KD")], [0, 1])
        found.append(grid.needed[PAIR, "cGAN-KD"])
        assert grid.factors[PAIR, "cGAN-KD"] == rounded_factor(found[-1], LARGEST_FACTOR)
    stages = declare(made, [table.arm("cGAN-KD")])
    shared = sum(stage.seconds for stage in (stages.gan, stages.ratio, stages.synth))
    assert shared > 0
    rows, controls = (
        [classes.cells[PAIR, title, seed].seconds for seed in (0, 1)] for title in ("cGAN-KD", "NOKD at equal updates")
    )
    assert found[0] == pytest.approx((sum(rows) / 2 + shared) / (sum(controls) / 2))
    assert found[1] == pytest.approx((sum(rows) / 2 + shared / 100) / (sum(controls) / 2))
    assert found[2] == found[0]


def test_the_time_of_a_generator_is_counted_in_students_side_by_side(
    classes: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that has 4 threads to itself takes the room of 4 students, of which 3 at a time are trained here."""
    table = TABLES[CLASSES]
    made = Experiment.open(base_recipe(table, "tiny", None, ()), Run(classes.page.parent))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    alone, beside = (Grid(table, "tiny", (), made, workers=workers, students=5) for workers in (1, 3))
    row = table.arm("cGAN-KD+TAKD")
    assert beside._share(row) == pytest.approx(3 * alone._share(row)) != 0
    assert beside._assistants(table.pair(PAIR), row) == pytest.approx(3 * alone._assistants(table.pair(PAIR), row)) != 0
    assert alone._assistants(table.pair(PAIR), table.arm("cGAN-KD")) == 0
    assert alone._share(table.arm("BLKD")) == 0


def test_a_control_that_is_too_short_is_marked(classes: BenchResult) -> None:
    cut = replace(measured(classes), needed={(PAIR, "cGAN-KD"): 7.3})
    assert f"x{classes.factors[PAIR, 'cGAN-KD']:g} of x7.3 needed: " in cut.markdown
    assert cut.to_dict()["equal_time_needed"] == {f"{PAIR}/cGAN-KD": 7.3}
    assert "needed: " not in replace(cut, needed={(PAIR, "cGAN-KD"): 4.0}).markdown
    assert "All seeds share one teacher, generator and pool" in cut.markdown


def test_a_rule_that_accepts_fewer_gets_a_larger_pool() -> None:
    table = TABLES[CLASSES]
    recipe = base_recipe(table, "full", "data", ["select.subsample=running_max"])
    assert recipe.select.count is not None
    assert recipe.select.rho is not None
    assert recipe.synth.pool * 0.1 * recipe.select.rho > 1.09 * recipe.select.count
    own = base_recipe(table, "full", "data", ["select.subsample=running_max", "synth.pool=1234"])
    assert own.synth.pool == 1234


def test_scale_tiny_takes_no_images() -> None:
    with pytest.raises(ConfigError, match="scale tiny has images of its own"):
        base_recipe(TABLES[CLASSES], "tiny", "photos", [])


def test_fine_tuned_rows_share_their_start(tmp_path: Path) -> None:
    """As published: NOKD is trained once, and rows with generated images and the controls go on from it."""
    rows, changes = ["NOKD", "cGAN-KD+BLKD", "cGAN-KD+FitNet"], ["student.init=finetune"]
    found = bench(
        "cifar100-table4",
        tmp_path / "b",
        scale="tiny",
        seeds=2,
        pairs=["resnet110-resnet20"],
        methods=rows,
        changes=changes,
        timed=False,
        workers=2,
    )
    assert found.failures == {}
    assert len(found.cells) == 2 * 5
    assert {path.name.rsplit("-", 1)[0] for path in found.page.parent.glob("student-real-*")} == {
        "student-real-0",
        "student-real-1",
    }
    real = [cell for cell in found.cells.values() if cell.method == "NOKD"]
    assert {cell.updates for cell in real} == {3}
    assert len({cell.stage for cell in found.cells.values()}) == 10
    assert all(cell.seconds > 0 for cell in found.cells.values())  # also of those that other processes trained
    assert "- Changed for all cells: student.init=finetune." in found.markdown
    assert "start from the NOKD student, whose updates and seconds are added" in measured(found).markdown


def test_a_teacher_is_in_memory_once(classes: BenchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows and students read it, whether it filters, teaches or both."""
    folder = Path(shutil.copytree(classes.page.parent, tmp_path / "bench"))
    made: Counter[str] = Counter()

    def counted(experiment: Experiment, config: TeacherConfig) -> ImageModel:
        made[config.model] += 1
        return build(experiment, config)

    build = gankd.recipes.teacher._unplaced
    monkeypatch.setattr(gankd.recipes.teacher, "_unplaced", counted)
    table, filters = TABLES[CLASSES], TABLES["c10k-components"]
    experiment = Experiment.open(base_recipe(table, "tiny", None, ()), Run(folder))
    grid, pair = Grid(table, "tiny", (), experiment), table.pair(PAIR)
    rows = [table.arm(title) for title in ("BLKD", "cGAN-KD+BLKD")]
    grid.run(pair, rows, [0, 1])
    assert len(grid.results) == 4
    assert made == {"cnn8": 1, "cnn16": 1}  # cnn8 filters, cnn16 is the pair's own
    own = experiment.with_recipe(table.pair_recipe(experiment.recipe, "tiny", pair))
    stages = declare(own, [table.pair_arm(experiment.recipe, "tiny", pair, row) for row in rows])
    blkd, both = stages.lessons.values()
    assert blkd.fingerprint == both.fingerprint != stages.teacher.fingerprint

    made.clear()
    experiment = Experiment.open(base_recipe(filters, "tiny", None, ()), Run(folder))
    grid = Grid(filters, "tiny", (), experiment)
    grid.run(filters.pairs[0], [*filters.controls, filters.arm("adjusted")], [0])
    assert len(grid.results) == 3
    assert made == {"cnn8": 1}
    stages = declare(experiment, [filters.controls[1]])
    assert stages.lessons[filters.controls[1].name].fingerprint == stages.teacher.fingerprint


@pytest.mark.parametrize(
    ("table", "change"),
    [
        (CLASSES, "student.model=resnet8"),
        (CLASSES, "student.teacher=resnet8"),
        (CLASSES, "student.loss=KD"),
        (CLASSES, "student.assistants=resnet8"),
        (CLASSES, "seeds=5"),
        ("cifar100-mg", "student.fake_share=0.3"),
        ("vkd-pairs", "teacher.model=resnet8"),
        ("cifar10-uda-c10k", "student.augment=flip"),
        ("cifar10-sskd-c10k", "select.adjust=none"),
    ],
)
def test_what_rows_set_themselves_cannot_be_changed(table: str, change: str) -> None:
    with pytest.raises(ConfigError, match=f"{change.partition('=')[0]} cannot be changed in {table}: "):
        base_recipe(TABLES[table], "tiny", None, [change])


def test_what_all_rows_share_can_be_changed() -> None:
    recipe = base_recipe(TABLES[CLASSES], "tiny", None, ["student.fake_share=0.3", "teacher.model=cnn4"])
    assert (recipe.student.fake_share, recipe.teacher.model) == (0.3, "cnn4")


def test_the_published_protocol_runs_and_is_kept_apart(tmp_path: Path) -> None:
    pair, rows = "resnet110-resnet20", ["BLKD", "cGAN-KD+BLKD"]
    table = find_table("cifar100-table4")
    found = bench(
        *(table.name, tmp_path / "b"),
        scale="tiny",
        protocol="published",
        seeds=1,
        pairs=[pair],
        methods=["NOKD", *rows],
        timed=False,
    )
    assert not found.failures
    assert {cell.protocol for cell in found.cells.values()} == {"published"}
    page = measured(found).markdown
    assert "--protocol published" in page
    assert "start from the NOKD student" in page
    assert not any(text in page for text in table.deviations if isinstance(text, Closed))
    updates = {cell.method: cell.updates for cell in found.cells.values()}
    assert updates["BLKD"] == updates["NOKD"] == 2 * round(updates["cGAN-KD+BLKD"] / 2)


def test_values_with_the_steps_one_by_one(tmp_path: Path) -> None:
    rows = ["raw", "adjusted"]
    found = bench("steering-components", tmp_path / "b", scale="tiny", seeds=1, methods=rows, timed=False)
    pair = "resnet20"
    assert {method for _, method, _ in found.cells} == {"NOKD at equal updates", "KD at equal updates", *rows}
    assert found.cells[pair, "adjusted", 0].published == 1.60
    assert found.cells[pair, "raw", 0].test != found.cells[pair, "adjusted", 0].test
    found = measured(found)
    page = found.markdown
    assert "against NOKD, updates" in page
    assert not any(text in page + found.text for text in ("NOKD, time", "Equal time"))
    assert all(each.gain.verdict == "no interval" for each in found.comparisons)


NETS = """import torch
class Narrow(torch.nn.Module):
    def __init__(self): super().__init__()
    def forward(self, x): return x.flatten(1)[:, :3]
class Nan(torch.nn.Module):
    def __init__(self, num_outputs):
        super().__init__()
        self.head = torch.nn.Linear(64, num_outputs)
    def forward(self, x): return self.head(x.flatten(1)) * (float("nan") if self.training else 1)
"""


def test_a_failing_cell_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets_that_fail.py").write_text(NETS)
    pairs = tuple(Pair(student=name) for name in ("nets_that_fail:Narrow", "nets_that_fail:Nan", "vgg11"))
    table = replace(TABLES[CLASSES], name="own", pairs=pairs, arms=(NOKD,), printed={})
    monkeypatch.setitem(TABLES, "own", table)
    found = bench("own", tmp_path / "b", scale="tiny", seeds=1, timed=False)
    assert found.exit_code == 1
    assert {pair for pair, _, _ in found.cells} == {"vgg11"}
    assert "gives outputs of shape (2, 3)" in found.failures["nets_that_fail:Narrow", "NOKD", 0]
    assert "became nan" in found.failures["nets_that_fail:Nan", "NOKD", 0]
    assert "| NOKD, seed 0 | failed: student-real-0: Label became nan" in found.markdown
    assert len(found.to_dict()["failures"]) == len(found.failures) == 6


@pytest.mark.parametrize("change", ["teacher.model=nope", "gan.external=nowhere.npz", "teacher.weights=none.pt"])
def test_what_all_cells_rest_on_is_refused_before_the_first(change: str, tmp_path: Path) -> None:
    with pytest.raises(GankdError):
        bench(CLASSES, tmp_path, scale="tiny", seeds=1, pairs=[PAIR], changes=[change], timed=False)
    assert not list(tmp_path.rglob("done.json"))


def test_a_failing_shared_stage_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid, "check_shared", lambda *_: None)  # as when it fails later
    rows, changes = ["cGAN-KD"], ["teacher.model=nope"]
    found = bench(CLASSES, tmp_path, scale="tiny", seeds=1, pairs=[PAIR], methods=rows, changes=changes, timed=False)
    assert found.exit_code == 1
    assert "nope" in found.failures[PAIR, "cGAN-KD", 0]
    assert found.seconds == pytest.approx(sum(cell.seconds for cell in found.cells.values()))
    assert found.page.is_file()


def test_what_could_not_be_made_is_not_tried_again_and_fails_what_needs_it_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def collapsed(*_: Any) -> None:
        tries.append("gan")
        raise TrainingError("the generator collapsed")

    monkeypatch.setattr(gankd.recipes.generated, "train_gan", collapsed)
    table = TABLES[CLASSES]
    grid = Grid(table, "tiny", (), Experiment.open(base_recipe(table, "tiny", None, ()), Run(tmp_path)))
    rows = [table.arm(title) for title in ("cGAN-KD", "BLKD", "cGAN-KD+BLKD")]
    for pair in table.pairs[:2]:
        grid.run(pair, rows, [0])
    names = [pair.name for pair in table.pairs[:2]]
    assert set(grid.results) == {(name, "BLKD", 0) for name in names}
    assert grid.failures == {
        (name, title, 0): "the generator collapsed" for name in names for title in ("cGAN-KD", "cGAN-KD+BLKD")
    }
    assert tries == ["gan"]


def test_images_that_fail_one_row_fail_no_other(
    classes: BenchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that rows share is made already; what is wrong is the choice of images of one of them."""
    folder = Path(shutil.copytree(classes.page.parent, tmp_path / "bench"))
    for path in folder.glob("student-*"):
        shutil.rmtree(path)

    def nothing(*_: Any) -> None:
        raise DataError("no image is left")

    monkeypatch.setattr(gankd.recipes.cgan_kd, "select_images", nothing)
    table = TABLES[CLASSES]
    grid = Grid(table, "tiny", (), Experiment.open(base_recipe(table, "tiny", None, ()), Run(folder)))
    grid.run(table.pair(PAIR), [table.arm(title) for title in ("cGAN-KD", "BLKD")], [0])
    assert grid.failures == {(PAIR, "cGAN-KD", 0): "no image is left"}
    assert set(grid.results) == {(PAIR, "BLKD", 0)}


def test_the_page_says_what_was_run(classes: BenchResult, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(classes.page.parent, tmp_path / "bench"))
    part = bench(CLASSES, folder, scale="tiny", seeds=1, pairs=[PAIR], methods=["BLKD"], timed=False)
    page = part.markdown
    assert f"`gankd bench {CLASSES} --scale tiny --seeds 1 --pairs {PAIR} --methods BLKD --untimed`" in page
    own = [cell for cell in classes.cells.values() if "equal time" not in cell.method]
    assert part.left_out == len(own) - len(part.cells) > 0
    assert f"A part: {part.left_out} further cells" in page
    assert "A part" not in classes.markdown
    changed = replace(part, changes=("student.updates=7",)).markdown
    here, full = changed.split("Here it differs:")[1].split("At scale full also:")
    assert "student.updates=7" in here
    assert TABLES[CLASSES].deviations[0] in full
    assert TABLES[CLASSES].deviations[0] not in here


def test_text_fits_a_terminal(classes: BenchResult) -> None:
    failed = {(PAIR, "a row of the table with a long name", 0): "a reason " * 30}
    shown = measured(classes)
    for found in (shown, replace(shown, failures=failed, needed={(PAIR, "cGAN-KD"): 47.3})):
        lines = found.text.splitlines()[:-1]  # the path
        assert max(map(len, lines)) <= 120
        assert any("x" in line and " ± " in line for line in lines)


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    for call, said in (
        (lambda: bench("cifar100-table33", tmp_path), "no published table 'cifar100-table33'; did you mean"),
        (lambda: bench(CLASSES, tmp_path, methods=["BLDK"], scale="tiny"), "no method 'BLDK' in cifar10-c10k; did you"),
        (lambda: bench(CLASSES, tmp_path, pairs=["vgg11"], scale="tiny"), "no pair 'vgg11'"),
        (lambda: bench(CLASSES, tmp_path, seeds=0), "--seeds must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[1, 2]", "{}", '{"cells": [{"table": 1}]}'])
def test_a_file_that_holds_no_cells_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(CheckpointError, match="holds no cells of gankd bench"):
        read_cells(tmp_path / "bench.json")


def test_a_line_is_added_behind_one_that_was_cut_short(classes: BenchResult, tmp_path: Path) -> None:
    cells = list(classes.cells.values())
    path = tmp_path / CELLS
    append_cell(path, cells[0])
    with path.open("a") as file:
        file.write('{"table"')
    append_cell(path, cells[1])
    assert read_cells(path) == cells[:2]
    append_cell(path, replace(cells[0], seconds=7.0))
    assert [cell.seconds for cell in read_cells(path)] == [7.0, cells[1].seconds]
