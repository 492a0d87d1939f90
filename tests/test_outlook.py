"""The outlook on a run: share done and time left, from what stages should take and how the present one goes."""

import pytest

from gankd.outlook import MOST, STUDENTS, Outlook

EXPECTED = {"teacher": 100.0, "gan": 400.0, STUDENTS: 500.0}


def test_time_left_is_that_of_the_stage_and_of_all_that_follow() -> None:
    outlook = Outlook(EXPECTED, 10)
    assert outlook.at("teacher", 0, 50, 100.0) == pytest.approx((0.0, 1000.0))
    assert outlook.at("teacher", 25, 50, 50.0) == pytest.approx((0.05, 950.0))
    assert outlook.at("gan", 1, 4, 300.0) == pytest.approx((0.2, 800.0))
    assert outlook.at("student-adjusted-0", 1, 2, 25.0) == pytest.approx((0.525, 475.0))
    assert outlook.student == "1 of 10"


def test_a_run_is_as_much_slower_as_its_present_stage() -> None:
    assert Outlook(EXPECTED, 10).at("teacher", 1, 2, 150.0) == pytest.approx((0.05, 150 + 3 * 900))
    assert Outlook(EXPECTED, 10).at("teacher", 1, 2, 1e9)[1] == pytest.approx(1e9 + MOST * 900)
    assert Outlook(EXPECTED, 10).at("teacher", 50, 50, 0.0) == pytest.approx((0.1, 900.0))


def test_students_count_one_by_one_and_side_by_side() -> None:
    outlook = Outlook(EXPECTED, 10)
    for _ in range(4):
        outlook.student_ended()
    assert outlook.at("student-real-1", 1, 2, 25.0) == pytest.approx((1 - (500 + 275) / 1000, 275 + 500))
    assert outlook.student == "5 of 10"
    outlook = Outlook({STUDENTS: 500.0}, 10)
    for _ in range(4):
        outlook.student_ended()
    assert outlook.at(STUDENTS, 4, 10, 600.0) == pytest.approx((0.4, 600.0))  # the six that are left, 100 s each
    for _ in range(6):
        outlook.student_ended()
    assert outlook.at(STUDENTS, 10, 10, 0.0) == pytest.approx((1.0, 0.0))
    assert outlook.student == "10 of 10"


def test_labels_only_come_first_and_do_not_end_the_students() -> None:
    outlook = Outlook(EXPECTED, 10)
    assert outlook.at("student-real_matched-0", 0, 1, 50.0) == pytest.approx((0.0, 1000.0))
    outlook.student_ended()
    assert outlook.at("teacher", 0, 1, 100.0) == pytest.approx((0.05, 950.0))


def test_stages_of_a_further_pipeline_come_after_those_of_the_first() -> None:
    outlook = Outlook({"gan": 10.0, STUDENTS: 20.0, "gan, pipeline 2": 10.0}, 4)
    assert outlook.at("gan", 1, 2, 5.0)[1] == pytest.approx(35.0)
    outlook.at("student-real-0", 0, 1, 5.0)
    for _ in range(2):
        outlook.student_ended()
    assert outlook.at("gan", 1, 2, 5.0)[1] == pytest.approx(15.0)


def test_a_stage_that_nobody_expected_counts_by_itself() -> None:
    assert Outlook({}, 0).at("gan", 1, 2, 7.0) == (1.0, 7.0)
    assert Outlook(EXPECTED, 10).at("virtual polish", 1, 2, 7.0) == pytest.approx((0.0, 1007.0))
