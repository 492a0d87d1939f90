"""Threads: as many as cores are free, one where other programs take the cores, and what the user has chosen."""

from collections.abc import Iterator

import pytest
import torch

from gankd import threads
from gankd.console import Console
from gankd.runs import Stage
from gankd.threads import CROWDED, WINDOW, Watch, choose, fix


@pytest.fixture(autouse=True)
def _several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four cores and four threads, of which the user has said nothing."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(threads, "APART", 0)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("running", "free"), [(1, 4), (2, 3), (4, 1), (9, 1)])
def test_as_many_threads_as_there_are_free_cores(running: int, free: int) -> None:
    choose(lambda: running)
    assert torch.get_num_threads() == free


def test_a_program_that_runs_for_a_moment_takes_no_core() -> None:
    counts = iter([5, 5, 1, 5, 5])
    choose(lambda: next(counts))
    assert torch.get_num_threads() == 4


def test_fewer_threads_than_cores_stay_as_few() -> None:
    torch.set_num_threads(2)
    choose(lambda: 2)
    assert torch.get_num_threads() == 2


def test_a_number_that_the_user_has_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # restored afterwards, unlike what `fix` writes
    fix(3)
    choose(lambda: 9)
    assert torch.get_num_threads() == 3
    seconds = iter([0.0, 100.0])
    with Watch(lambda: next(seconds), lambda: 0.0) as watch:
        assert watch.look() is None


@pytest.mark.parametrize(
    ("waited", "goes_on_with"), [((CROWDED + 0.01) * WINDOW, 1), ((CROWDED - 0.01) * WINDOW, 4), (0.0, 4)]
)
def test_one_thread_goes_on_where_it_waits_long_for_a_core(waited: float, goes_on_with: int) -> None:
    clock, waits = iter([50.0, 50.0 + WINDOW / 2, 50.0 + WINDOW]), iter([7.0, 7.0 + waited])
    with Watch(lambda: next(clock), lambda: next(waits)) as watch:
        assert watch.look() is None  # too early to tell
        share = watch.look()
        assert torch.get_num_threads() == goes_on_with
        assert share == (pytest.approx(waited / WINDOW) if goes_on_with == 1 else None)
    assert torch.get_num_threads() == 4


def test_each_look_counts_the_time_since_the_last() -> None:
    clock, waits = iter([0.0, WINDOW, 2 * WINDOW]), iter([0.0, 0.2 * WINDOW, 0.6 * WINDOW])
    with Watch(lambda: next(clock), lambda: next(waits)) as watch:
        assert watch.look() is None
        assert watch.look() == pytest.approx(0.4)


def test_a_stage_says_why_it_goes_on_with_one_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Watch, "look", lambda watch: 0.45)
    for _ in Stage("gan", console=Console("plain")).steps(1):
        pass
    said = capsys.readouterr().err
    assert said == (
        "gan                other programs take the cores (45% of the time it waits for one): one thread from here\n"
    )


def test_systems_that_do_not_tell_leave_the_threads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    choose()
    assert torch.get_num_threads() == 4
    assert threads._waited() == 0


def test_this_system_tells_how_many_programs_run() -> None:
    assert threads._running() >= 1
    assert threads._waited() >= 0
