from dataclasses import replace

from gankd.bench.results import ArmResult, Choice, Comparison, with_intervals
from gankd.commands.showcase import CLOSING, OPENING, with_summary
from gankd.commands.stages import RunResult
from gankd.recipes.arms import DEFAULT_ARMS
from gankd.tasks import Regression

TASK = Regression(low=0.0, high=90.0, unit="degrees")


def result() -> RunResult:
    values = {
        "real_matched": (5.0, 6.0, 7.0),
        "kd_matched": (4.0, 5.0, 6.0),
        "kd_time": (3.0, 4.0, 5.0),
        "adjusted": (3.0, 4.0, 5.5),
    }
    arms = {**DEFAULT_ARMS, "kd_time": replace(DEFAULT_ARMS["kd_matched"], name="kd_time")}
    found = [
        ArmResult(
            arm=arms[name],
            seeds=(0, 1, 2),
            metrics=tuple({"mae": value} for value in numbers),
            metric="mae",
            updates=80 if name == "kd_time" else 10,
            seconds=1.0,
        )
        for name, numbers in values.items()
    ]
    return RunResult("angles", Comparison(with_intervals(found, TASK), TASK), Choice(method="adjusted"))


def test_the_summary_names_the_control_that_is_beaten_least() -> None:
    text = with_summary(f"before\n{OPENING}\nold numbers\n{CLOSING}\nafter\n", [result()])
    row = next(line for line in text.splitlines() if line.startswith("| angles"))
    # against KD: errors fall by 1, 1 and 0.5 degrees; mean 5/6, standard error 1/6, t(2) = 4.303
    at_equal_updates = "+0.83 [+0.12, +1.55] better"
    # against KD at equal time: they rise by 0, 0 and 0.5
    at_equal_time = "-0.17 [-0.88, +0.55] none"
    assert row == f"| angles, degrees | + adjusted: cGAN-KD | 4.17 ± 0.73 | {at_equal_updates} | {at_equal_time} |"
    assert "Intervals are over 3 students" in text
    assert (text[:7], text[-7:]) == ("before\n", "\nafter\n")
    assert "old numbers" not in text


def test_writing_the_summary_twice_changes_nothing() -> None:
    once = with_summary(f"{OPENING}\n{CLOSING}\n", [result()])
    assert with_summary(once, [result()]) == once
    assert with_summary("no markers", [result()]) == "no markers"
