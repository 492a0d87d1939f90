"""`gankd pareto`: several students in one command, and which of them no other one beats."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gankd.commands import evaluate
from gankd.commands.pareto import pareto
from gankd.recipes import Recipe, students
from gankd.report.front import Front, Point, write_front
from gankd.tasks import Classification, Regression

Outcome = tuple[int, str, str]
POINTS = [
    Point("slow", 80.0, 1.0, milliseconds=3.0, kib=300.0, parameters=75_000),
    Point("fast", 70.0, 1.0, milliseconds=1.0, kib=20.0, parameters=5_000),
    Point("beaten", 70.0, 1.0, milliseconds=2.0, kib=10.0, parameters=2_500),
    Point("equal", 80.0, 1.0, milliseconds=3.0, kib=900.0, parameters=225_000),
    Point("teacher net", 95.0, float("nan"), milliseconds=9.0, kib=4000.0, parameters=10**6, teacher=True),
]


def front(tmp_path: Path, points: list[Point], higher: bool = True) -> Front:
    task = Classification(num_classes=3) if higher else Regression(low=0, high=9, unit="degrees")
    return Front(tmp_path / "pareto.html", "digits", task, "cGAN-KD", 3, points)


def test_networks_that_no_other_one_beats(tmp_path: Path) -> None:
    found = front(tmp_path, POINTS)
    assert [point.name for point in found.best_for(lambda point: point.milliseconds)] == ["fast", "slow", "teacher net"]
    assert [point.name for point in found.best_for(lambda point: point.kib)] == ["beaten", "slow", "teacher net"]
    errors = front(tmp_path, [replace(point, value=100 - point.value) for point in POINTS], higher=False)
    assert [point.name for point in errors.best_for(lambda point: point.kib)] == ["beaten", "slow", "teacher net"]
    best = {row[0]: row[-1] for row in found.rows}
    assert best == {
        "fast": "time",
        "beaten": "size",
        "slow": "time and size",
        "equal": "",
        "teacher net": "time and size",
    }
    assert "busy machine" not in found.text
    assert "busy machine" in front(tmp_path, [replace(POINTS[0], busy=True)]).text


def test_the_page_shows_every_network(tmp_path: Path) -> None:
    found = front(tmp_path, [*POINTS, replace(POINTS[0], name="<b>my_nets:$x$")])
    write_front(found)
    page = found.page.read_text()
    assert "&lt;b&gt;my_nets:$x$" in page
    assert page.count("<svg role") == 2
    for point in POINTS:
        assert f'<th scope="row">{point.name}</th>' in page
    assert "<script" not in page


def test_each_network_is_trained_like_the_arm(
    digits_run: tuple[Recipe, Path], tmp_path: Path, gankd: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = digits_run
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    code, out, _ = gankd("pareto", run, "--students", "cnn8,cnn4", "--arm", "adjusted", "--workers", 1, "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    by_name = {point["name"]: point for point in found["points"]}
    own = evaluate(recipe, run, arms=["adjusted"]).arms[0]
    assert by_name["cnn4"]["value"] == pytest.approx(sum(own.values) / len(own.values))  # the recipe's own network
    assert by_name["cnn8"]["parameters"] > by_name["cnn4"]["parameters"]
    assert by_name["teacher cnn8"]["teacher"] is True
    assert (run / "pareto.html").is_file()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(students, "distill", never)
    again = pareto(recipe, run, ["cnn4", "cnn8"], arm="adjusted")
    assert [point.value for point in again.points[:2]] == [by_name[name]["value"] for name in ("cnn4", "cnn8")]


def test_wrong_input(digits_run: tuple[Recipe, Path], refused: Callable[..., str], tmp_path: Path) -> None:
    run = digits_run[1]
    assert "arguments are required: --students" in refused("pareto", run)
    assert "names a network twice: cnn4, cnn4" in refused("pareto", run, "--students", "cnn4,cnn4")
    assert "no arm 'best'" in refused("pareto", run, "--students", "cnn4", "--arm", "best")
    assert "no model 'cnn9'" in refused("pareto", run, "--students", "cnn4,cnn9", "--arm", "real")
    assert "no run in nowhere" in refused("pareto", "nowhere", "--students", "cnn4")
