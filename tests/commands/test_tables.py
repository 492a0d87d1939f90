"""Published tables in the list and in a plan: what they cost, from shapes and from a few steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gankd.bench.cost import Peak, estimate, network_work, peak, table_work
from gankd.bench.prices import Timer
from gankd.commands.plan import plan_table
from gankd.commands.table_costs import SEEDS, cost_row
from gankd.commands.tables import plan_table_on, plan_table_run
from gankd.console import Console
from gankd.data.sets import published_shape
from gankd.errors import ConfigError
from gankd.recipes.published import TABLES, find_table
from gankd.recipes.ready import digits

Outcome = tuple[int, str, str]


def test_the_work_of_a_network_grows_with_its_images() -> None:
    small, large = network_work("resnet8", 1, 16, 10), network_work("resnet8", 1, 32, 10)
    head = 2 * 64 * 10  # multiplications and additions of the last layer, which sees no pixels
    assert large.operations - head == 4 * (small.operations - head)
    assert large.parameters == small.parameters
    assert 3.9 < large.activations / small.activations < 4


def test_time_follows_speed_and_rows() -> None:
    table = find_table("cifar100-table3")
    slow, fast = (estimate(table, "tiny", speed) for speed in (1e9, 1e10))
    assert slow.seconds == pytest.approx(10 * fast.seconds)
    assert 0 < slow.shared_seconds < slow.seconds
    assert slow.gigabytes == fast.gigabytes > 0
    assert (
        estimate(find_table("cifar100-mg"), "tiny", 1e9).seconds
        > estimate(find_table("cifar100-components"), "tiny", 1e9).seconds
    )


def test_a_table_is_planned_from_a_few_steps(tmp_path: Path) -> None:
    rows = {row.stage: row for row in plan_table_run("steering-components", tmp_path / "b", scale="tiny", seeds=1)}
    assert list(rows) == ["teacher", "gan", "ratio", "synth", "resnet20"]
    assert rows["resnet20"].count == 7  # five rows and two controls
    assert all(row.seconds > 0 for row in rows.values())
    assert not (tmp_path / "b").exists()


def test_steps_that_would_take_too_long_are_counted_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Timer, "speed", 1.0)  # one operation per second
    table, out = "steering-components", tmp_path / "b"
    rows = plan_table_run(table, out, scale="tiny", seeds=1, console=Console("plain"))
    assert all(row.counted for row in rows)
    base = find_table(table).recipe("tiny").teacher
    assert rows[0].seconds == 3 * network_work(base.model, 1, 16, 1).operations * base.batch_size * base.updates
    text = plan_table(rows, out)
    assert "years *" in text
    assert "from the shapes of networks" in text
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["teacher", "generator", "sampling,"]


# --- machines that are not here ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "operations"), [("60 TFLOP/s", 60e12), ("989TFLOPS", 989e12), ("9.7e3 gflop/s", 9.7e12), ("1 PFLOP", 1e15)]
)
def test_a_speed_is_read(text: str, operations: float) -> None:
    assert peak(text, 0.5).speed == pytest.approx(operations / 2)


@pytest.mark.parametrize("text", ["60", "TFLOP/s", "60 apples", "-1 TFLOP/s", "1.2.3 TFLOP/s"])
def test_other_text_is_no_speed(text: str) -> None:
    with pytest.raises(ConfigError, match="--on takes a speed"):
        peak(text)


def test_hours_of_a_table_on_a_machine_follow_from_its_operations() -> None:
    name = "cifar100-table3"
    slow = plan_table_on(name, Peak(60e12, 0.1), scale="full", seeds=2)
    fast = plan_table_on(name, Peak(120e12, 0.2), scale="full", seeds=1)
    assert [row.stage.split(" (")[0] for row in slow] == [
        *("teacher densenet121", "generator", "density ratio", "pool", "students")
    ]
    factors = [each.seconds / other.seconds for each, other in zip(slow, fast, strict=True)]
    assert factors == pytest.approx([4, 4, 4, 4, 8])
    teacher = 3 * network_work("densenet121", 3, 32, 100).operations * 240 * 50_000 / 6e12  # forward and backward
    assert slow[0].seconds == pytest.approx(teacher)
    text = plan_table(slow, "here", Peak(60e12, 0.1))
    assert "on 60 TFLOP/s, of which 10 % is reached" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_density_ratio_that_learns_from_new_images_costs_their_generation() -> None:
    name = "cifar100-table3"
    own, published = (table_work(find_table(name, each), "full").shared for each in ("gankd", "published"))
    filter_, reader = (network_work(each, 3, 32, 100).operations for each in ("densenet121", "resnet20"))
    generation = own["pool"] / find_table(name).recipe("full").synth.pool - 2 * filter_
    fresh = published["density ratio"] - own["density ratio"]
    assert fresh == pytest.approx(200 * 50_000 * (generation + reader))  # one for each image in 200 epochs


def test_a_recipe_is_planned_for_another_machine(gankd: Callable[..., Outcome]) -> None:
    code, out, _ = gankd("plan", "digits", "--on", "1 GFLOP/s", "--share", "0.5", "--json")
    assert code == 0
    rows = {row["stage"]: row for row in json.loads(out.splitlines()[-1])["stages"]}
    recipe = digits()
    work = network_work(recipe.teacher.model, *published_shape("digits")).operations
    expected = 3 * work * recipe.teacher.updates * recipe.teacher.batch_size / 5e8
    assert rows["teacher"]["seconds"] == pytest.approx(expected)
    assert all(row["counted"] for row in rows.values())
    for words, said in (
        (("--share", "0.3"), "--share is a share of the speed that --on names"),
        (("--on", "1 TFLOP/s", "--share", "2"), "--share must lie in"),
        (("--on", "1 TFLOP/s", "--time", "5m"), "give one of them"),
    ):
        code, _, err = gankd("plan", "digits", *words)
        assert (code, said in err) == (2, True)


def test_the_page_of_costs_has_every_table() -> None:
    page = (Path(__file__).parents[2] / "docs/costs.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert [line[0] for line in lines] == list(TABLES), "docs/costs.md is stale: make lists"
    assert cost_row("rc49-r5") in lines, "docs/costs.md is stale: make lists"
    assert f"{SEEDS} seeds" in page
