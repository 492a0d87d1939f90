"""Published tables in the list and in a plan: what they cost, from shapes and from a few steps."""

from pathlib import Path

import pytest

from gankd.bench.cost import estimate, network_work
from gankd.bench.prices import Timer
from gankd.commands.plan import plan_table
from gankd.commands.tables import plan_table_run
from gankd.console import Console
from gankd.recipes.published import find_table


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
