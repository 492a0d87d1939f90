"""A plan says what would run, writes nothing, and refuses what the run would refuse."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gankd.bench.prices import Prices, StepTime, Timer, step_time
from gankd.commands.plan import PlanRow, plan, plan_table
from gankd.config import override
from gankd.errors import GankdError
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import arm_named
from gankd.recipes.experiment import Experiment
from gankd.recipes.teacher import make_teacher, teacher_stage
from gankd.runs import Run

SMALL = ("teacher.model=cnn4", "gan.batch_size=4", "teacher.batch_size=4", "student.batch_size=4")


def statuses(rows: list[PlanRow]) -> dict[str, tuple[str, int]]:
    return {row.stage.split()[0]: (row.status, row.count) for row in rows}


def test_what_is_there_is_reused(digits_run: tuple[Recipe, Path]) -> None:
    recipe, folder = digits_run
    rows = plan(recipe, folder)
    assert statuses(rows) == dict.fromkeys(("teacher", "gan", "ratio", "synth", "students"), ("reuse", 0))
    assert sum(row.seconds + row.megabytes for row in rows) == 0
    assert "16 MB" not in plan_table(rows, folder)


def weights(recipe: Recipe, folder: Path, out: Path) -> Path:
    experiment = Experiment.open(recipe, Run(folder))
    teacher = make_teacher(experiment, recipe.teacher, teacher_stage(experiment, recipe.teacher))
    torch.save(teacher.net.state_dict(), out / "net.pt")
    return out / "net.pt"


def test_what_rests_on_a_change_runs(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    rows = plan(override(recipe, ["gan.steps=600"]), folder)
    assert statuses(rows) == {
        "teacher": ("reuse", 0),
        "gan": ("run", 1),
        "ratio": ("run", 1),
        "synth": ("run", 1),
        "students": ("run", 10),  # five arms see fakes, with two seeds each
    }
    assert all(row.seconds > 0 and row.megabytes > 0 for row in rows[1:])
    rows = plan(override(recipe, ["gan.steps=600"]), folder, arms=["real", "kd_matched"])
    assert statuses(rows) == {"teacher": ("reuse", 0), "students": ("reuse", 0)}

    rows = plan(override(recipe, [f"teacher.weights={weights(recipe, folder, tmp_path)}"]), folder)
    assert rows[0].status == "run"
    assert rows[0].seconds == 0  # nothing to train

    part = Path(shutil.copytree(folder, tmp_path / "run"))
    (teacher,) = part.glob("teacher-*")
    (teacher / "done.json").rename(teacher / "checkpoint.safetensors")
    for student in part.glob("student-kd_matched-1-*"):  # the only one that still needs a teacher
        shutil.rmtree(student)
    rows = plan(recipe, part)
    assert (rows[0].stage, rows[0].status) == ("teacher", "resume")
    assert statuses(rows)["students"] == ("run", 1)
    assert sum(row.seconds for row in rows[1:-1]) == 0


def test_time_grows_with_the_work(tiny: tuple[str, ...], angles_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = angles_run  # improved label input: its networks are not there yet
    recipe = override(recipe, [*SMALL, "gan.ili_updates=1"])
    few, many = (plan(override(recipe, [f"gan.steps={steps}"]), tmp_path / "no") for steps in (10, 10_000))
    assert many[1].seconds > 50 * few[1].seconds
    assert not (tmp_path / "no").exists()
    lines = plan_table(many, tmp_path).splitlines()
    assert lines[0].split() == ["stage", "status", "time", "CPU", "time", "disk"]
    assert lines[-3].startswith("total")
    assert lines[-1] == f"in {tmp_path}"


class ASecondEach(Timer):
    """Every step takes a second."""

    def __call__(self, what: str, work: Callable[[int], None], operations: Callable[[], float]) -> StepTime:
        work(1)
        return StepTime(1.0)


@pytest.mark.parametrize("features", ["teacher", "classifier", "autoencoder"])
def test_networks_of_label_and_ratio_count(features: str, angles_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe = override(angles_run[0], [f"ratio.features={features}", "gan.ili_updates=70", "teacher.updates=30"])
    rows = {row.stage: row for row in plan(recipe, tmp_path / "no", timer=ASecondEach())}
    assert rows["gan"].seconds == recipe.gan.steps + 70
    assert rows["ratio"].seconds == 2048 // 256 + 1 + (0 if features == "teacher" else 30)


def test_assistants_are_networks_of_their_own(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe = override(digits_run[0], ['student.assistants=["cnn16","cnn8"]', "student.updates=50"])
    rows = plan(recipe, tmp_path / "no", arms=["kd_matched"], timer=ASecondEach())
    first, second = (row for row in rows if row.stage.startswith("assistant"))
    assert first.seconds == second.seconds == 50
    assert first.megabytes > 2 * second.megabytes


@pytest.mark.parametrize(
    "setting", ["teacher.model=resnet21", "student.model=nowhere:Net", "data.num_train=5000", "device=cuda:x"]
)
def test_what_a_run_would_refuse_is_refused(
    setting: str, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("plan", "digits", "--set", setting) != ""
    with pytest.raises(GankdError):
        plan(override(Recipe(), [setting]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_reads_a_virtual_teacher_plans_it(digits_run: tuple[Recipe, Path]) -> None:
    recipe, folder = digits_run
    read = override(recipe, ["student.loss=Label + KD@virtual", "virtual.batch_size=16", "virtual.polish=40"])
    rows = plan(read, folder, arms=["real_matched", "kd_matched"])
    assert statuses(rows) == {"teacher": ("reuse", 0), "virtual": ("run", 1), "students": ("run", 2)}
    polish_alone = plan(override(read, ["virtual.when=after"]), folder, arms=["kd_matched"])[1]
    assert rows[1].seconds > polish_alone.seconds > 0  # the teacher is trained once more beside it
    assert "virtual" not in statuses(plan(read, folder, arms=["real_matched"]))
    given = override(read, ["student.virtual=somewhere.safetensors"])
    with pytest.raises(GankdError, match="no virtual teacher somewhere"):
        plan(given, folder, arms=["kd_matched"])


@pytest.mark.parametrize(("step", "calls"), [(0.1, [1, 1, 1, 1, 5, 5, 5]), (1.5, [1, 1])])
def test_slow_steps_are_timed_once(step: float, calls: list[int]) -> None:
    clock, made = [0.0], []

    def work(steps: int) -> None:
        made.append(steps)
        clock[0] += step * steps

    assert step_time(work, clocks=(lambda: clock[0], lambda: clock[0] / 4))[:2] == pytest.approx((step, step / 4))
    assert made == calls


def test_a_students_step_costs_the_same_however_many_images_there_are(
    tmp_path: Path, work: Callable[[Callable[[], object]], int]
) -> None:
    """A teacher's outputs for all images are stored before the first step, which is not the price of a step."""
    counts: list[int] = []
    for images in (300, 898):
        recipe = override(RECIPES["digits"](), [f"data.num_train={images}", "student.augment=[]"])
        experiment = Experiment.open(recipe, Run(tmp_path))

        def timer(what: str, steps: Callable[[int], None], *_: object) -> StepTime:
            counts.append(work(lambda: steps(1)))
            return StepTime(1.0)

        Prices(timer).student(experiment, arm_named(recipe, "kd_matched"))  # type: ignore[arg-type]
    assert counts[1] == pytest.approx(counts[0], rel=0.05)
