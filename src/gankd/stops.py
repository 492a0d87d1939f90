"""Signals that end the command line: training stops behind the step that is running, with its checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, and signals from job schedulers and from terminals that are closed."""


class Stopped(KeyboardInterrupt):
    """End of the command by one of these signals, its argument."""


class _Waiting:
    """State that the handler and the training loop share."""

    in_step = False
    stop: signal.Signals | None = None


def handle_stops() -> None:
    """Make these signals raise `Stopped`: within a step of training at its end, anywhere else, or twice, at once.

    Signals that are ignored, as by nohup, stay so.
    """
    _Waiting.stop = None
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: object) -> None:
    waits = _Waiting.in_step and _Waiting.stop is None
    _Waiting.stop = signal.Signals(number)  # what is raised in a destructor or a callback of a library is lost
    if not waits:
        raise Stopped(_Waiting.stop)


@contextmanager
def in_step() -> Iterator[None]:
    """The first signal within waits until `stop_if_asked`."""
    _Waiting.in_step = True
    try:
        yield
    finally:
        _Waiting.in_step = False


def asked_to_stop() -> bool:
    """True if a signal waits."""
    return _Waiting.stop is not None


def stop_if_asked() -> None:
    """Raise `Stopped` if a signal waits."""
    number, _Waiting.stop = _Waiting.stop, None
    if number is not None:
        raise Stopped(number)
