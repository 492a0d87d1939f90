"""The console shows progress in each mode, at the right times."""

import json
import sys
from collections.abc import Iterator

import pytest

from gankd.console import Console, Mode, followed, shows_reading
from gankd.outlook import Outlook


def test_auto_is_live_on_a_terminal_and_plain_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, mode in ((True, "live"), (False, "plain")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        assert Console("auto").mode == mode


@pytest.mark.parametrize(("mode", "wait"), [("live", 0.3), ("plain", 10.0), ("json", 5.0)])
def test_it_is_due_again_after_a_while(mode: Mode, wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = Console(mode)
    assert console.due()
    console.progress("gan", 1, 10, 0.0, 1.0, {})
    clock[0] += wait * 0.9
    assert not console.due()
    clock[0] += wait * 0.2
    assert console.due()


def show(console: Console) -> None:
    console.progress("gan", 1, 4, 1234.5, 190.0, {"d_loss": 0.123456})
    console.progress("gan", 4, 4, 1234.5, 0.0, {})
    console.say("done: report.html", path="report.html")


def test_plain(capsys: pytest.CaptureFixture[str]) -> None:
    show(Console("plain"))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].split() == ["gan", "25%", "1,234", "img/s", "3m10s", "left", "d_loss", "0.1235"]
    assert lines[1].split()[:2] == ["gan", "100%"]
    assert lines[2] == "done: report.html"


def test_live_writes_over_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(Console("live"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    _, first, second, last = err.split("\r")
    assert len(second) == len(first)  # padded, so that nothing of the longer line remains
    assert last.rstrip() == "done: report.html"
    assert len(last.rstrip("\n")) >= len(second.rstrip())


def test_json_has_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(Console("json"))
    out, err = capsys.readouterr()
    assert err == ""
    first, _, last = (json.loads(line) for line in out.splitlines())
    assert first == {
        "event": "progress",
        "stage": "gan",
        "done": 1,
        "total": 4,
        "images_per_second": 1234.5,
        "seconds_left": 190.0,
        "d_loss": 0.123456,
    }
    assert last == {"event": "message", "text": "done: report.html", "path": "report.html"}


def test_quiet_says_nothing_and_is_never_due(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("quiet")
    show(console)
    console.event({"a": 1})
    assert capsys.readouterr() == ("", "")
    assert not console.due()


def test_the_live_line_says_which_student_and_the_time_left_for_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("live")
    console.outlook = Outlook({"gan": 60.0, "students": 120.0}, 24)
    console.progress("gan", 1, 2, 1234.5, 30.0, {})
    console.progress("student-kd-0", 0, 2, 0.0, 5.0, {})
    Console.end_line()
    _, gan, student = capsys.readouterr().err.split("\r")
    assert gan.split()[:6] == ["gan", "50%", "1,234", "img/s", "30s", "left"]
    assert gan.split()[6:] == ["run", "2m30s", "left"]
    assert student.split() == ["student-kd-0", "(1", "of", "24)", "0%", "5s", "left", "run", "2m00s", "left"]


def test_a_bar_shows_the_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("bar")
    console.outlook = Outlook({"gan": 60.0, "students": 120.0}, 24)
    console.progress("gan", 1, 2, 1234.5, 30.0, {"d": 1.0})
    console.say("settings changed")
    console.progress("student-kd-0", 0, 2, 0.0, 5.0, {})
    console.close()
    out, err = capsys.readouterr()
    assert " 17% " in err
    assert "gan 50%, 2m30s left" in err
    assert "student-kd-0 (1 of 24) 0%, 2m00s left" in err
    assert "settings changed" in out + err


def test_in_python_there_is_a_bar_for_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert Console.of_python().mode == "quiet"
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert Console.of_python().mode == "bar"


def test_reading_is_shown_within_its_block(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def parts() -> Iterator[int]:
        for number in range(40):
            clock[0] += 1.0
            yield number

    assert list(followed("read images", parts(), 40)) == list(range(40))
    assert capsys.readouterr().err == ""  # nobody watches
    with shows_reading(Console("plain")):
        assert list(followed("read images", parts(), 40, images=2)) == list(range(40))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["5%", "30%", "55%", "80%"]  # every ten seconds, none at once
    assert lines[1].split()[3:] == ["2", "img/s", "28s", "left"]
