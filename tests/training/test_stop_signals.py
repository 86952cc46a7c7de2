"""facelib/training/stop_signals.py: signals and `n` + Enter ask for a stop, and all workers agree on it."""

import io
import os
import signal
import sys
from types import SimpleNamespace

import pytest

from facelib.training.stop_signals import StopRequests, agree_on_stop, exit_code


@pytest.mark.parametrize("stopped_by, code", [(None, 0), ("SIGTERM", 143), ("SIGINT", 130), ("n + Enter", 0)])
def test_exit_codes_are_those_of_a_shell(stopped_by, code):
    assert exit_code(stopped_by) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop_and_the_old_handler_comes_back(number):
    before = signal.getsignal(number)

    with StopRequests() as stop:
        assert stop.now is None
        os.kill(os.getpid(), number)
        assert stop.now == signal.Signals(number).name

    assert signal.getsignal(number) == before


def test_a_terminal_that_closes_stops_as_sigterm_does(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopRequests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.now == "SIGTERM"

        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        with StopRequests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.now is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequests() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.now == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()


@pytest.mark.parametrize("typed, is_wanted", [(b"n\n", True), (b"x\nN \n", True), (b"no\n", False), (b"", False)])
def test_n_and_enter_ask_for_a_stop_after_the_epoch(monkeypatch, typed, is_wanted):
    read, write = os.pipe()
    os.write(write, typed)
    with os.fdopen(read) as pipe, os.fdopen(write, "w"):
        monkeypatch.setattr(sys, "stdin", pipe)

        assert StopRequests().after_epoch == is_wanted


@pytest.mark.parametrize("stdin", [None, io.StringIO("n\n")])
def test_without_a_readable_input_nobody_asks(monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)

    assert not StopRequests().after_epoch


class Workers:
    """Two workers, seen from one: `others` is what the other one asks for."""

    def __init__(self, others=None, is_chief=True):
        self.others, self.is_chief, self.asked = others, is_chief, []

    def any(self, is_true):
        """The first question is whether anybody stops; the next ones, in order, for which reason."""
        reasons = [self.others is not None, *(self.others == why for why in ("SIGTERM", "SIGINT", "n + Enter"))]
        self.asked.append(is_true)
        return is_true or reasons[len(self.asked) - 1]


def requests(now=None, after_epoch=False):
    return SimpleNamespace(now=now, after_epoch=after_epoch)


@pytest.mark.parametrize(
    "mine, others, is_epoch_end, expected",
    [
        (requests(), None, True, None),
        (requests("SIGTERM"), None, False, "SIGTERM"),
        (requests(), "SIGINT", False, "SIGINT"),
        (requests("SIGINT"), "SIGTERM", False, "SIGTERM"),
        (requests(after_epoch=True), None, True, "n + Enter"),
        (requests(after_epoch=True), None, False, None),
        (requests(after_epoch=True), "SIGTERM", True, "SIGTERM"),
    ],
)
def test_all_workers_stop_for_the_same_reason(mine, others, is_epoch_end, expected):
    assert agree_on_stop(mine, Workers(others), is_epoch_end) == expected


def test_only_worker_0_reads_the_keyboard():
    assert agree_on_stop(requests(after_epoch=True), Workers(is_chief=False), True) is None
