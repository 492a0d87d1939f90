import json
from dataclasses import replace

import pytest

from gankd.bench.results import ArmResult, Choice, with_intervals
from gankd.bench.stats import Interval, paired_interval
from gankd.errors import ConfigError
from gankd.recipes.arms import DEFAULT_ARMS
from gankd.report.tables import (
    best_arm,
    classes_rows,
    classes_table,
    decimals,
    evidence_rows,
    headline,
    length_note,
    markdown_table,
    results_table,
)
from gankd.tasks import Classification, Regression, Task

CLASSES = Classification(num_classes=10)
DEGREES = Regression(low=-60, high=60, unit="degrees")
SEEDS = (0, 1, 2)


def arm(
    name: str,
    values: tuple[float, ...],
    seeds: tuple[int, ...] = SEEDS,
    updates: int = 2400,
    title: str = "",
    seconds: float = 12.34,
) -> ArmResult:
    return ArmResult(
        arm=replace(DEFAULT_ARMS[name], title=title or f"student {name}"),
        seeds=seeds,
        metrics=tuple({"top1": value, "nll": 0.0} for value in values),
        metric="top1",
        updates=updates,
        seconds=seconds,
    )


def compared(chosen: tuple[float, ...], task: Task = CLASSES) -> tuple[ArmResult, ...]:
    arms = [
        arm("real", (90.0, 91.0, 92.0), updates=600),
        arm("real_matched", (91.0, 92.1, 92.9)),
        arm("kd_matched", (92.0, 93.0, 94.1), title="KD, equal updates"),
        arm("adjusted", chosen),
    ]
    return with_intervals(arms, task)


def test_accuracy_per_class() -> None:
    shares = {f"class {k}": 100.0 - k for k in range(30)}
    better = {name: share / 2 + 50 for name, share in shares.items()}
    arms = [
        replace(arm("kd_matched", (90.0,), (0,)), by_class=shares, metrics=({"top1": 90.0, "balanced": 85.5},)),
        replace(arm("adjusted", (95.0,), (0,)), by_class=better, metrics=({"top1": 95.0, "balanced": 92.75},)),
        arm("real", (90.0,), (0,)),
    ]
    choice = Choice("adjusted", "adjusted", "kd_matched")
    head, rows = classes_rows(arms, choice)
    assert head == ["class", "student kd_matched", "student adjusted"]
    assert rows[0] == ["class 0", "100.0", "100.0"]
    assert rows[-1] == ["mean (balanced accuracy)", "85.5", "92.8"]
    text = classes_table(arms, choice)
    assert "class 29" in text
    assert "class 9 " not in text
    assert "the 20 classes of 30 on which the last column is worst" in text
    assert classes_table(arms[2:], choice) == ""


def test_every_arm_is_paired_by_seed_with_every_other_control() -> None:
    arms = {a.name: a for a in compared((95.0, 96.1, 97.0))}
    assert {name: list(a.vs) for name, a in arms.items()} == {
        "real": ["real_matched", "kd_matched"],
        "real_matched": ["kd_matched"],
        "kd_matched": ["real_matched"],
        "adjusted": ["real_matched", "kd_matched"],
    }
    expected = paired_interval((95.0, 96.1, 97.0), (92.0, 93.0, 94.1), higher_is_better=True)
    assert arms["adjusted"].vs["kd_matched"] == expected


def test_the_order_of_seeds_does_not_matter_and_lonely_seeds_are_left_out() -> None:
    control = arm("real_matched", (1.0, 2.0, 3.0), (0, 1, 2))
    other = arm("raw", (33.0, 22.5, 99.0), (2, 1, 7))
    (_, found) = with_intervals([control, other], CLASSES)
    expected = paired_interval((33.0, 22.5), (3.0, 2.0), higher_is_better=True)
    assert found.vs["real_matched"] == expected
    row = next(row for row in evidence_rows([control, found], CLASSES, "r") if row["arm"] == "raw")
    assert row["seeds"] == [2, 1]
    assert row["mean"] - row["control_mean"] == pytest.approx(row["diff"])


def test_headline_names_the_control_that_it_beats_least() -> None:
    result = headline(compared((95.0, 96.1, 97.0)), CLASSES, Choice(method="adjusted"))
    assert result.verdict == "better"
    assert '"student adjusted" reaches 96.03 % top-1 accuracy, better by 3.00 [2.75, 3.25] points than' in result.text
    assert 'the control "KD, equal updates" (3 seeds, equal updates)' in result.text


def test_headline_is_only_as_good_as_the_worst_comparison() -> None:
    arms = compared((92.1, 93.4, 93.9))  # better than real_matched, level with KD
    assert next(a for a in arms if a.name == "adjusted").vs["real_matched"].verdict == "better"
    result = headline(arms, CLASSES, Choice(method="adjusted"))
    assert result.verdict == "no difference found"
    assert result.text.startswith("No difference found")
    assert "KD" in result.text


def test_headline_says_worse() -> None:
    result = headline(compared((95.0, 96.1, 97.0), DEGREES), DEGREES, Choice(method="adjusted"))  # a larger error
    assert result.verdict == "worse"
    assert 'worse by 4.03 [3.89, 4.18] degrees than the control "student real_matched"' in result.text
    assert "degrees mean absolute error" in result.text


def test_headline_makes_no_claim_without_evidence() -> None:
    one_seed = with_intervals([arm("real_matched", (90.0,), (0,)), arm("raw", (95.0,), (0,))], CLASSES)
    assert headline(one_seed, CLASSES, Choice(method="raw")).verdict == "no interval"
    assert "1 seed, equal updates, without an interval" in headline(one_seed, CLASSES, Choice(method="raw")).text
    assert headline(one_seed, CLASSES, Choice()).verdict == "no interval"
    assert headline([arm("raw", (95.0, 96.0, 97.0))], CLASSES, Choice(method="raw")).verdict == "no interval"


def test_headline_compares_with_the_control_that_validation_chose() -> None:
    arms = compared((95.0, 96.1, 97.0))  # better than both controls
    chosen = Choice(best="adjusted", method="adjusted", control="real_matched")
    assert 'the control "student real_matched"' in headline(arms, CLASSES, chosen).text
    level = compared((92.1, 93.4, 93.9))  # with KD: better than the chosen control is no claim then
    assert headline(level, CLASSES, chosen).verdict == "no difference found"
    assert best_arm(arms, chosen) == ""
    found = best_arm(arms, replace(chosen, best="kd_matched"))
    assert found == 'On validation images a control is best, which gankd export takes: "KD, equal updates".'


def test_headline_owns_up_to_unequal_updates() -> None:
    arms = with_intervals([arm("real_matched", (1.0, 2.0, 3.1)), arm("raw", (4.0, 5.1, 6.0), updates=9)], CLASSES)
    text = headline(arms, CLASSES, Choice(method="raw")).text
    assert "equal updates" not in text
    assert "(3 seeds, 9 updates, not 2400)" in text


def test_headline_of_an_unknown_arm_is_refused() -> None:
    with pytest.raises(ConfigError, match="adjusted"):
        headline(compared((95.0, 96.1, 97.0)), CLASSES, Choice(method="adjustd"))


def test_terminal_table_fits_and_says_no_difference() -> None:
    table = results_table(compared((92.1, 93.4, 93.9)), CLASSES, Choice())
    assert max(map(len, table.splitlines())) <= 120
    row = next(line for line in table.splitlines() if line.startswith("student adjusted"))
    assert "93.13 ± 0.54" in row
    assert row.count(">") == 1
    assert row.count("=") == 1
    assert "= no difference found" in table


def test_terminal_table_wraps_long_titles() -> None:
    long = arm("raw", (1.0,), (0,), 1_000_000, title="word " * 30, seconds=1e5)
    arms = with_intervals([arm("real_matched", (0.123,), (0,)), long], DEGREES)
    table = results_table(arms, DEGREES, Choice(), width=100)
    assert max(map(len, table.splitlines())) <= 100
    assert table.count("word") == 30
    narrow = results_table(arms, DEGREES, Choice(), width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "left out to fit 60 columns: updates, seconds" in narrow


def test_markdown_table_uses_words() -> None:
    lines = markdown_table(compared((92.1, 93.4, 93.9)), CLASSES, Choice()).splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert "(no difference found)" in lines[-1]
    assert "(better)" in lines[-1]


def test_a_note_says_what_longer_training_adds() -> None:
    short = [arm("real_matched", (90.0, 91.0, 92.0)), arm("adjusted", (93.0, 93.0, 93.5))]
    assert length_note(short, CLASSES) == []
    longer = [
        replace(found, arm=replace(found.arm, name=f"{found.name}_x4", title=f"{found.title}, x4"), updates=9600)
        for found in (arm("real_matched", (91.0, 92.0, 93.1)), arm("adjusted", (93.0, 92.9, 93.6)))
    ]
    assert length_note([*short, *longer], CLASSES) == [
        "Longer training against the same at length 1, + is better: student real_matched, x4 +1.03 [+0.89, +1.18] "
        "(better); student adjusted, x4 0.00 [-0.25, +0.25] (no difference found)"
    ]
    assert "student real_matched, x4 -1.03" in length_note([*short, *longer], DEGREES)[0]


def test_evidence_has_exactly_the_agreed_keys_and_is_json() -> None:
    rows = evidence_rows(compared((95.0, 96.1, 97.0)), CLASSES, "digits")
    assert [(row["arm"], row["control"]) for row in rows if row["arm"] == "adjusted"] == [
        ("adjusted", "real_matched"),
        ("adjusted", "kd_matched"),
    ]
    keys = "recipe task arm control metric higher_is_better seeds mean control_mean diff ci_low ci_high updates seconds"
    assert all(list(row) == keys.split() for row in rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    one_seed = with_intervals([arm("real_matched", (90.0,), (0,)), arm("raw", (95.0,), (0,))], CLASSES)
    assert evidence_rows(one_seed, CLASSES, "digits")[-1]["ci_low"] is None


def test_a_smaller_error_counts_as_positive() -> None:
    arms = with_intervals([arm("kd_matched", (3.0, 3.1, 3.2)), arm("raw", (2.0, 2.2, 2.1))], DEGREES)
    row = evidence_rows(arms, DEGREES, "rotated-digits")[-1]
    assert row["mean"] < row["control_mean"]
    assert row["diff"] > 0
    assert row["higher_is_better"] is False


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0346, "0.0346"), (0.346, "0.346"), (3.07, "3.07"), (30.7, "30.70"), (1234.5, "1234")]
)
def test_decimals_follow_the_size_of_the_metric(value: float, shown: str) -> None:
    assert f"{value:.{decimals([arm('raw', (value,), (0,))], DEGREES)}f}" == shown


def test_arms_need_a_result_per_seed() -> None:
    with pytest.raises(ConfigError, match="one result per seed, got 2 for 3 seeds"):
        arm("raw", (1.0, 2.0))
    assert Interval(0.0, 0.0, 0.0).verdict == "no difference found"
