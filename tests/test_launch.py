"""launch.py with tiny scripts in the place of a training: who gets what, one log, and one end for all."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch
from facelib import joined_log
from facelib.cli import FaceError
from facelib.cluster import split_address

ROOT = Path(__file__).parents[1]
SOON = 60.0  # seconds; what must happen happens in a few of them, even on a busy machine
OURS = ("TF_CONFIG", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "PYTHONUNBUFFERED")

# What every script below begins with. `say` writes a file for the test: NAME.RANK
PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
RANK = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
def say(name, text=""):
    part = Path(__file__).with_name(f"part.{name}.{RANK}")
    part.write_text(str(text))
    part.rename(part.with_name(f"{name}.{RANK}"))  # whole at once
def wait_for(*names):
    end = time.monotonic() + 60
    while not all(Path(__file__).with_name(name).exists() for name in names):
        assert time.monotonic() < end
        time.sleep(0.02)
"""


HOSTS = ("--hosts", "a,b", "--host-index", "1", "--port", "23456")


def environment(**changes):
    environ = {key: value for key, value in os.environ.items() if key not in OURS}
    return {**environ, **changes}


class Launch:
    """A launch.py that runs a script of the test, in a folder of its own."""

    def __init__(self, folder, script, *flags, args=(), environ=None, **options):
        self.folder = folder
        (folder / "script.py").write_text(PRELUDE + script)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *flags, str(folder / "script.py"), *args],
            env=environment() if environ is None else environ,
            **{
                "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                # Under nohup, or in the background of a shell, the tests themselves ignore these.
                "preexec_fn": lambda: [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGHUP, signal.SIGINT)],
                **options,
            },
        )  # fmt: skip

    def wait(self):
        """(exit code, standard output, standard error)"""
        out, err = self.process.communicate(timeout=SOON)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()

    def read(self, name):
        """What a worker said, as soon as it has."""
        path, end = self.folder / name, time.monotonic() + SOON
        while not path.exists():
            assert time.monotonic() < end, f"no {name}"
            time.sleep(0.02)
        return path.read_text()


@pytest.fixture
def start(tmp_path):
    started = []

    def start(script, *flags, **options):
        started.append(Launch(tmp_path, script, *flags, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def is_running(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        with contextlib.suppress(FileNotFoundError):
            return " Z " not in Path(f"/proc/{pid}/stat").read_text()  # a zombie is not
    return False


def wait_until_gone(*pids):
    end = time.monotonic() + SOON
    while any(map(is_running, pids)):
        assert time.monotonic() < end, "still running"
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------------- what each gets


@pytest.mark.parametrize("count", [1, 3])
def test_every_worker_has_its_rank_among_the_same_free_ports(start, count):
    script = """
import socket
config = json.loads(os.environ["TF_CONFIG"])
say("config", json.dumps([config, sys.argv[1:]]))
socket.create_server(("127.0.0.1", int(config["cluster"]["worker"][RANK].rpartition(":")[2])))
"""

    one = start(script, "-n", str(count), args=["--data", "x y", "-n", "7", "--", "--help"])

    assert one.wait() == (0, "", "")
    found = [json.loads(one.read(f"config.{rank}")) for rank in range(count)]
    assert [config["task"] for config, _ in found] == [{"type": "worker", "index": i} for i in range(count)]
    addresses = found[0][0]["cluster"]["worker"]
    assert all(config["cluster"] == {"worker": addresses} for config, _ in found)
    assert len(set(addresses)) == count
    for host, port in map(split_address, addresses):
        assert host == "127.0.0.1" and 10_000 <= port < 32_768
    assert all(args == ["--data", "x y", "-n", "7", "--", "--help"] for _, args in found)


def test_workers_of_several_hosts_follow_each_other(start):
    one = start('say("config", os.environ["TF_CONFIG"])', "-n", "2", *HOSTS)

    code, out, _ = one.wait()

    assert code == 0
    expected = {"cluster": {"worker": ["a:23456", "a:23457", "b:23456", "b:23457"]}}
    for rank in (2, 3):
        task = {"task": {"type": "worker", "index": rank}}
        assert json.loads(one.read(f"config.{rank}")) == expected | task
    assert sorted(p.suffix for p in one.folder.glob("config.*")) == [".2", ".3"]
    assert out == ""


def test_an_ipv6_host_stands_in_brackets():
    args = launch.parse_args(["-n", "1", "--hosts", "fe80::1,b", "--host-index", "1", "--port", "23456", "train.py"])

    assert launch.make_addresses(args) == (("[fe80::1]:23456", "b:23456"), 1)


def test_the_first_port_can_be_given():
    args = launch.parse_args(["-n", "2", "--port", "23456", "train.py"])

    assert launch.make_addresses(args) == (("127.0.0.1:23456", "127.0.0.1:23457"), 0)


@pytest.mark.parametrize(
    "visible, devices, gpus",
    [
        (None, [], []),
        (None, ["null", "nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"], ["0", "1", "2"]),
        ("2,0", ["nvidia0"], ["2", "0"]),
        ("GPU-1a, GPU-2b", [], ["GPU-1a", "GPU-2b"]),
        ("", ["nvidia0"], []),
        ("-1", ["nvidia0"], []),
        ("1,-1,0", ["nvidia0"], ["1"]),
    ],
)
def test_visible_gpus(monkeypatch, visible, devices, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(os, "listdir", lambda folder: {"/dev": devices}[folder])

    assert launch.visible_gpus() == gpus


def test_each_worker_sees_one_gpu(start):
    one = start(
        'say("gpu", os.environ["CUDA_VISIBLE_DEVICES"])', "-n", "2", environ=environment(CUDA_VISIBLE_DEVICES="5,3,1")
    )

    assert one.wait()[0] == 0
    assert [one.read("gpu.0"), one.read("gpu.1")] == ["5", "3"]


def test_more_workers_than_gpus_are_refused(start):
    one = start("", "-n", "3", environ=environment(CUDA_VISIBLE_DEVICES="0,1"))

    code, out, err = one.wait()

    assert (code, out) == (1, "")
    assert err.startswith("error: Every worker has a GPU of its own. Received: -n 3 with 2 visible.")
    assert err.count("\n") == 1


THREADS = 'say("threads", [os.environ.get(k) for k in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")])'


@pytest.mark.parametrize("count", [1, 2, 5])
def test_without_gpus_workers_share_the_cores(start, count):
    one = start(THREADS, "-n", str(count), environ=environment(CUDA_VISIBLE_DEVICES=""))
    share = str(max(1, len(os.sched_getaffinity(0)) // count))

    assert one.wait()[0] == 0
    expected = str([None, None] if count == 1 else [share, share])  # one alone takes what TensorFlow gives it
    assert [one.read(f"threads.{i}") for i in range(count)] == [expected] * count


def test_a_share_that_the_user_chose_stays(start):
    one = start(THREADS, "-n", "2", environ=environment(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="7"))
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))

    assert one.wait()[0] == 0
    assert one.read("threads.1") == str(["7", share])


# -------------------------------------------------------------------------------------------------------------- log


def test_worker_0_writes_as_it_is_and_the_others_are_named(start):
    script = """
if RANK == 0:
    wait_for("done.1")
    time.sleep(0.5)
print(f"loss {RANK}")
sys.stdout.write("\\r 10%\\r 50%\\r100%\\r\\nno end of line")
print("warning", file=sys.stderr, flush=True)
sys.stdout.flush()
say("done")
"""

    code, out, err = start(script, "-n", "2").wait()

    assert code == 0
    named = "[worker 1] loss 1\n[worker 1] 100%\n[worker 1] no end of line\n"
    plain = "loss 0\n\r 10%\r 50%\r100%\r\nno end of line"
    assert out in (named + plain, plain + named)
    assert sorted(err.splitlines()) == ["[worker 1] warning", "warning"]


@pytest.mark.parametrize(
    "data, lines, rest",
    [
        (b"", [], b""),
        (b"one\ntwo\nthr", [b"one\n", b"two\n"], b"thr"),
        (b"\n\n", [b"\n", b"\n"], b""),
        (b"dos\r\n", [b"dos\n"], b""),
        (b" 1%\r 2%\r 3%\n", [b" 3%\n"], b""),
        (b"\r 1%\r 2%", [], b" 2%"),
        (b" 1%\r 2%\r", [], b" 2%\r"),  # the next byte says whether it is drawn over or ends here
        (b" 2%\r\n", [b" 2%\n"], b""),
        (b" 2%\r 3%", [], b" 3%"),
        (b"\r\r\r", [], b"\r"),
        (b"x" * 100_000, [b"x" * 100_000 + b"\n"], b""),  # is not kept for ever
    ],
)
def test_lines_that_were_drawn_over_are_cut_to_their_last_state(data, lines, rest):
    assert joined_log.cut_lines(data) == (lines, rest)


@given(st.lists(st.text("ab\r\n", max_size=5)))
def test_lines_are_the_same_however_they_arrive(pieces):
    whole = "".join(pieces).encode()
    found, rest = [], b""
    for piece in pieces:
        lines, rest = joined_log.cut_lines(rest + piece.encode())
        found += lines

    assert found == joined_log.cut_lines(whole)[0]


@given(st.lists(st.text("ab\r\n", max_size=5)))
def test_worker_0_keeps_every_byte_in_whole_lines(pieces):
    found, rest = [], b""
    for piece in pieces:
        (lines,), rest = joined_log.cut_whole(rest + piece.encode())
        assert not lines or lines[-1:] in (b"\r", b"\n")
        found.append(lines)

    assert b"".join(found) + rest == "".join(pieces).encode()


def test_a_line_of_our_own_does_not_go_on_where_a_progress_bar_was_left(capfd):
    read, write = os.pipe()
    os.write(write, b"epoch 1:   3%")
    os.close(write)
    with open(read, "rb") as source:
        joined_log.copy_lines(source, 2, b"")
    joined_log.say("error: gone")
    joined_log.say("error: gone too")

    assert capfd.readouterr().err == "epoch 1:   3%\nerror: gone\nerror: gone too\n"


def test_a_line_that_worker_0_has_begun_is_not_cut_in_a_file(start):
    script = """
if RANK == 0:
    os.write(1, b"loss ")
    wait_for("done.1")
    time.sleep(0.5)
    os.write(1, b"0.5\\n")
else:
    time.sleep(0.5)
    print("mine")
    say("done")
"""

    assert start(script, "-n", "2").wait() == (0, "[worker 1] mine\nloss 0.5\n", "")


def test_lines_of_the_others_come_while_they_run(start):
    one = start('if RANK: print("begun")\ntime.sleep(600)', "-n", "2")

    assert select.select([one.process.stdout], [], [], SOON)[0], "nothing came"
    assert one.process.stdout.readline() == b"[worker 1] begun\n"


def test_much_output_arrives_whole(start):
    script = """
for i in range(20_000):
    print(f"{i} " + "x" * (i % 200))
"""

    code, out, _ = start(script, "-n", "3").wait()

    assert code == 0
    lines = [f"{i} " + "x" * (i % 200) for i in range(20_000)]
    for prefix in ("", "[worker 1] ", "[worker 2] "):
        found = [line for line in out.splitlines() if line.startswith(prefix or tuple("0123456789"))]
        assert found == [prefix + line for line in lines]
    assert len(out.splitlines()) == 3 * len(lines)


# ---------------------------------------------------------------------------------------------------- one end for all


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
    assert err == "error: Worker 1 ended with exit code 7, so the others are ended too. Its own lines may say why.\n"
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


@pytest.mark.parametrize("sent, got", [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGHUP", "SIGTERM")])
def test_a_signal_to_the_launcher_reaches_every_worker_once(start, sent, got):
    one = start(COUNTING.replace("CODE", "0"), "-n", "3")
    for i in range(3):
        one.read(f"pid.{i}")

    one.process.send_signal(signal.Signals[sent])

    assert one.wait() == (0, "", "")
    assert [one.read(f"got.{i}") for i in range(3)] == [str([got])] * 3


@pytest.mark.parametrize("sent, code", [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 143)])
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


@pytest.mark.parametrize("si_code, to_worker_0", [(launch.SI_KERNEL, []), (0, ["SIGINT"])])
def test_what_the_terminal_has_sent_to_worker_0_is_not_sent_again(monkeypatch, si_code, to_worker_0):
    """Two signals that come close together are one to the process, so that processes cannot show this."""

    class Recorded(launch.Worker):
        has_ended, code = False, 0

        def send(self, number):
            sent[self.rank].append(signal.Signals(number).name)

    def sigtimedwait(numbers, seconds):
        Recorded.has_ended = True  # after this one
        return types.SimpleNamespace(si_signo=signal.SIGINT, si_code=si_code)

    sent = {0: [], 1: []}
    monkeypatch.setattr(signal, "sigtimedwait", sigtimedwait)

    assert launch.tend([Recorded(0, None, True), Recorded(1, None, False)], grace=1.0) == 0
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


# ------------------------------------------------------------------------------------------------------------ flags


@pytest.mark.parametrize(
    "words, said",
    [
        ("", "-n is how many workers to start, at least 1. Received: nothing"),
        ("train.py", "-n is how many workers to start, at least 1. Received: nothing"),
        ("-n 0 train.py", "at least 1. Received: 0"),
        ("-n -3 train.py", "at least 1. Received: -3"),
        ("-n 2", "runs a script. Received none"),
        ("-n 2 --", "runs a script. Received none"),
        ("-n 2 no_such.py", "No script at 'no_such.py'"),
        ("-n 2 facelib", "A script is a file"),
        ("-n 2 --grace -1 train.py", "--grace is in seconds, at least 0. Received: -1"),
        ("-n 2 --grace nan train.py", "Received: nan"),
        ("-n 2 --port 65535 train.py", "first of 2 ports. Received: 65535"),
        ("-n 2 --port 0 train.py", "Received: 0"),
        ("-n 2 --host-index 0 train.py", "--host-index counts in --hosts. Received: 0 without"),
        ("-n 2 --hosts a,b --port 20000 train.py", "0 to 1. Received: none"),
        ("-n 2 --hosts a,b --port 20000 --host-index 2 train.py", "0 to 1. Received: 2"),
        ("-n 2 --hosts a,b --host-index 0 train.py", "Received no --port"),
        ("-n 2 --hosts a,,b --host-index 0 --port 20000 train.py", "each host once. Received: 'a,,b'"),
        ("-n 2 --hosts a,a --host-index 0 --port 20000 train.py", "each host once. Received: 'a,a'"),
        ("-n 2 --hosts a:1,b --host-index 0 --port 20000 train.py", "names, without ports. Received: 'a:1'"),
        ("-n 2 --hosts a/b,c --host-index 0 --port 20000 train.py", "Received: 'a/b:20000'"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(words, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it started something"))

    with pytest.raises(FaceError) as caught:
        launch.main(words.split())

    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_bad_input_is_one_line_and_exit_code_1():
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), "-n", "2", "no_such.py"], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: No script at 'no_such.py'. Check the path.\n"


def test_free_ports_are_different_and_free():
    ports = launch.free_ports(20)

    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use_is_not_handed_out(monkeypatch):
    ports = launch.free_ports(2)
    with socket.create_server(("127.0.0.1", ports[0])):
        monkeypatch.setattr(launch.random, "sample", lambda population, k: ports)

        assert launch.free_ports(1) == [ports[1]]
        with pytest.raises(FaceError, match="Only 1 of 2 are free"):
            launch.free_ports(2)
