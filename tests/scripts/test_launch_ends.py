"""How launch.py ends: with the first failure, by a signal, or when all are done. Tiny scripts are the training."""

import fcntl
import os
import pty
import signal
import termios
import time
import types

import pytest

from facelib.distributed import worker_processes
from tests.helpers.launched import SOON, starting, state, wait_until_gone
from tests.helpers.slow import slow_unless_quick


@pytest.fixture
def start(tmp_path):
    yield from starting(tmp_path)


def test_the_first_failure_ends_all_with_its_exit_code(start):
    script = """
say("pid", os.getpid())
if RANK == 1:
    wait_for("pid.0", "pid.2")
    sys.exit(7)
signal.signal(signal.SIGTERM, lambda *_: (say("asked"), sys.exit(3)))
time.sleep(600)
"""
    one = start(script, "-n", "3")

    code, _, err = one.wait()

    assert code == 7
    one.read("asked.0"), one.read("asked.2")
    assert err == "error: Worker 1 ended with exit code 7, so the others are ended too. See the lines of this worker.\n"
    wait_until_gone(*(int(one.read(f"pid.{i}")) for i in range(3)))


def test_a_killed_worker_ends_all_with_128_and_the_signal(start):
    one = start('say("pid", os.getpid())\ntime.sleep(600)', "-n", "2")
    pids = [int(one.read(f"pid.{i}")) for i in range(2)]

    os.kill(pids[1], signal.SIGKILL)

    code, _, err = one.wait()
    assert code == 128 + signal.SIGKILL
    assert (
        err.startswith("error: Worker 1 was killed by SIGKILL, so the others are ended too.") and err.count("\n") == 1
    )
    wait_until_gone(*pids)


def test_a_worker_that_does_not_end_is_killed_after_the_grace(start):
    script = """
signal.signal(signal.SIGTERM, lambda *_: say("asked", time.time()))
say("pid", os.getpid())
wait_for("pid.0", "pid.1")
if RANK == 1:
    sys.exit(2)
while True:
    time.sleep(1)
"""
    one = start(script, "-n", "2", "--grace", "1.5")

    assert one.wait()[0] == 2
    assert time.time() - float(one.read("asked.0")) >= 1.4
    wait_until_gone(int(one.read("pid.0")))


def test_a_stopped_worker_takes_its_sigterm(start):
    script = """
signal.signal(signal.SIGTERM, lambda *_: (say("asked"), sys.exit(3)))
say("pid", os.getpid())
wait_for("pid.0", "pid.1")
if RANK == 0:
    wait_for("stopped.1")
    sys.exit(7)
say("stopped")
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
"""
    one = start(script, "-n", "2", "--grace", "600")

    assert one.wait()[0] == 7
    one.read("asked.1")


def test_ctrl_z_stops_all_workers_until_the_launcher_continues(start):
    script = """
say("pid", os.getpid())
wait_for("end")
"""
    one = start(script, "-n", "2")
    pids = [one.process.pid, *(int(one.read(f"pid.{i}")) for i in range(2))]

    one.process.send_signal(signal.SIGTSTP)
    wait_for_states(pids, "T")
    one.process.send_signal(signal.SIGCONT)
    wait_for_states(pids, "S")

    (one.folder / "end").touch()
    assert one.wait() == (0, "", "")


def wait_for_states(pids, wanted):
    end = time.monotonic() + SOON
    while any(state(pid) != wanted for pid in pids):
        assert time.monotonic() < end, [state(pid) for pid in pids]
        time.sleep(0.02)


def test_an_error_that_all_workers_share_is_shown_once(start):
    script = """
print("error: No data at 'x'.", file=sys.stderr)
print(f"error: Worker {RANK} has another one.", file=sys.stderr)
say("said")
wait_for("said.0", "said.1", "said.2")
time.sleep(0.5)
sys.exit(1)
"""
    code, _, err = start(script, "-n", "3").wait()

    assert code == 1
    assert err.count("No data at 'x'") == 1
    assert err.count("has another one") == 3


def test_a_worker_that_ends_well_before_the_others_is_fine(start):
    script = """
if RANK == 0:
    sys.exit(0)
time.sleep(2)
say("finished")
"""
    one = start(script, "-n", "2")

    assert one.wait() == (0, "", "")
    assert (one.folder / "finished.1").exists()


def test_the_last_worker_to_end_can_fail_too(start):
    one = start("sys.exit(0 if RANK else 9)", "-n", "2")

    code, _, err = one.wait()

    assert code == 9
    assert err.startswith("error: Worker 0 ended with exit code 9")


COUNTING = """
got = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
say("pid", os.getpid())
while not got:
    time.sleep(0.02)
time.sleep(1)  # for one that comes twice
say("got", got)
sys.exit(CODE)
"""


@pytest.mark.parametrize(
    "sent, got",
    slow_unless_quick([("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGHUP", "SIGTERM")], [("SIGINT", "SIGINT")]),
)
def test_a_signal_to_the_launcher_reaches_every_worker_once(start, sent, got):
    one = start(COUNTING.replace("CODE", "0"), "-n", "3")
    for i in range(3):
        one.read(f"pid.{i}")

    one.process.send_signal(signal.Signals[sent])

    assert one.wait() == (0, "", "")
    assert [one.read(f"got.{i}") for i in range(3)] == [str([got])] * 3


@pytest.mark.parametrize(
    "sent, code", slow_unless_quick([("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 143)], [("SIGTERM", 143)])
)
def test_workers_that_end_because_they_were_asked_to_have_not_failed(start, sent, code):
    script = COUNTING.replace("CODE", "128 + signal.Signals[got[0]]").replace("time.sleep(1)", "time.sleep(RANK)")
    one = start(script, "-n", "3")
    for i in range(3):
        one.read(f"pid.{i}")

    one.process.send_signal(signal.Signals[sent])

    assert one.wait() == (code, "", "")
    assert [one.read(f"got.{i}") for i in range(3)] == [str([signal.Signals(code - 128).name])] * 3


def test_after_a_second_ctrl_c_no_end_is_a_failure(start):
    """One worker is interrupted at once, and another loses it and fails."""
    script = """
got = []
signal.signal(signal.SIGINT, lambda *_: (got.append(1), say(f"got_{len(got)}", "")))
say("pid", os.getpid())
while len(got) < 2:
    time.sleep(0.02)
time.sleep(0 if RANK else 0.5)
sys.exit(1 if RANK else 130)
"""
    one = start(script, "-n", "2")
    for i in range(2):
        one.read(f"pid.{i}")

    for number in (1, 2):
        one.process.send_signal(signal.SIGINT)
        for i in range(2):
            one.read(f"got_{number}.{i}")

    assert one.wait() == (130, "", "")


def test_after_a_second_ctrl_c_a_worker_that_does_not_end_is_killed(start):
    script = """
got = []
signal.signal(signal.SIGINT, lambda *_: (got.append(1), say(f"got_{len(got)}", "")))
say("pid", os.getpid())
while not (RANK and len(got) == 2):
    time.sleep(0.02)
sys.exit(130)
"""
    one = start(script, "-n", "2", "--grace", "1")
    pids = [int(one.read(f"pid.{i}")) for i in range(2)]

    for number in (1, 2):
        one.process.send_signal(signal.SIGINT)
        for i in range(2):
            one.read(f"got_{number}.{i}")

    assert one.wait()[0] == 130
    wait_until_gone(*pids)


def test_a_worker_that_was_stopped_by_somebody_else_takes_the_others_with_it(start):
    one = start(COUNTING.replace("CODE", "143"), "-n", "2")
    pids = [int(one.read(f"pid.{i}")) for i in range(2)]

    os.kill(pids[1], signal.SIGTERM)

    assert one.wait() == (143, "", "Worker 1 was stopped by SIGTERM, so the others are stopped too.\n")
    assert [one.read(f"got.{i}") for i in range(2)] == ["['SIGTERM']"] * 2


@pytest.mark.parametrize("si_code, to_worker_0", [(worker_processes.SI_KERNEL, []), (0, ["SIGINT"])])
def test_what_the_terminal_has_sent_to_worker_0_is_not_sent_again(monkeypatch, si_code, to_worker_0):
    """Two signals that come close together are one to the process, so that processes cannot show this."""

    class Recorded(worker_processes.WorkerProcess):
        has_ended, code = False, 0

        def send(self, number):
            sent[self.rank].append(signal.Signals(number).name)

    def sigtimedwait(numbers, seconds):
        Recorded.has_ended = True  # after this one
        return types.SimpleNamespace(si_signo=signal.SIGINT, si_code=si_code)

    sent = {0: [], 1: []}
    monkeypatch.setattr(signal, "sigtimedwait", sigtimedwait)

    assert worker_processes.supervise([Recorded(0, None, True), Recorded(1, None, False)], grace=1.0) == 0
    assert sent == {0: to_worker_0, 1: ["SIGINT"]}


def test_nohup_is_respected(start):
    one = start(
        COUNTING.replace("CODE", "0"), "-n", "2", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    for i in range(2):
        one.read(f"pid.{i}")

    one.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    one.process.send_signal(signal.SIGINT)

    assert one.wait()[0] == 0
    assert [one.read(f"got.{i}") for i in range(2)] == ["['SIGINT']"] * 2


def test_a_launcher_that_is_killed_leaves_no_worker(start):
    one = start('signal.signal(15, signal.SIG_IGN)\nsay("pid", os.getpid())\ntime.sleep(600)', "-n", "3")
    pids = [int(one.read(f"pid.{i}")) for i in range(3)]

    one.process.kill()

    wait_until_gone(*pids)


def test_in_a_terminal_worker_0_reads_it_and_ctrl_c_reaches_every_worker_once(start):
    script = """
say("terminal", [sys.stdin.isatty(), sys.stdout.isatty(), os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()])
say("own_session", os.getsid(0) == os.getpid())
if RANK == 0:
    say("line", sys.stdin.readline())
""" + COUNTING.replace("CODE", "0")
    controller, terminal = pty.openpty()

    def take_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    one = start(script, "-n", "2", stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=take_terminal)
    os.close(terminal)
    try:
        assert one.read("terminal.0") == "[True, True, True]"
        assert one.read("terminal.1") == "[False, False, False]"
        assert [one.read(f"own_session.{i}") for i in range(2)] == ["False", "True"]
        os.write(controller, b"n\n")
        assert one.read("line.0") == "n\n"
        for i in range(2):
            one.read(f"pid.{i}")
        os.write(controller, b"\x03")

        assert [one.read(f"got.{i}") for i in range(2)] == ["['SIGINT']"] * 2
        assert one.wait()[0] == 0
    finally:
        os.close(controller)
