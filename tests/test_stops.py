"""Signals that end a command: training stops behind a step that is in the checkpoint."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gankd.runs import Stage
from gankd.stops import STOPS, Stopped, handle_stops
from gankd.storage import load_state


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    handle_stops()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_a_stopped_training_repeats_no_step(number: signal.Signals, tmp_path: Path) -> None:
    done, net = [], nn.Linear(1, 1)

    def train(stop: int | None) -> None:
        stage = Stage("a", tmp_path, checkpoint_seconds=float("inf"))
        for step in stage.steps(6, net=net):
            if step == stop:
                signal.raise_signal(number)
            net.bias.data.fill_(step)
            done.append(step)

    with pytest.raises(Stopped) as stopped:
        train(3)
    assert stopped.value.args == (number,)
    kept = load_state(tmp_path / "checkpoint.safetensors")
    assert kept["step"] == 4
    assert torch.equal(kept["state"]["net"]["bias"], torch.tensor([3.0]))
    train(None)
    assert done == [0, 1, 2, 3, 4, 5]


def test_a_second_signal_does_not_wait_for_the_step() -> None:
    begun: list[object] = []
    with pytest.raises(Stopped):
        for step in Stage("a").steps(6):
            begun.append(step)
            signal.raise_signal(signal.SIGTERM)
            begun.append("waits")
            signal.raise_signal(signal.SIGINT)
            begun.append("never")
    assert begun == [0, "waits"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_ends_the_next_step() -> None:
    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    Swallows()
    steps = Stage("a").steps(6)
    assert next(steps) == 0
    with pytest.raises(Stopped):
        next(steps)


def test_elsewhere_a_signal_acts_at_once_and_an_ignored_one_never() -> None:
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    handle_stops()
    signal.raise_signal(signal.SIGHUP)
