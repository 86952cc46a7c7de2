"""facelib/distributed/peer_watch.py on real sockets: a worker that is gone or frozen ends the others."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facelib.distributed.cluster import Cluster
from facelib.distributed.peer_watch import PeerWatch
from tests.helpers.sockets import SOON, free_address

ROOT = Path(__file__).parents[2]
ADDRESSES = ("a:1", "b:2", "c:3")


class Exits:
    """Stands in for os._exit."""

    def __init__(self):
        self.codes, self.time, self._event = [], None, threading.Event()

    def __call__(self, code):
        self.codes.append(code)
        self.time = time.monotonic()
        self._event.set()

    def wait(self, seconds=SOON):
        return self._event.wait(seconds)


@pytest.fixture
def others():
    """{rank: (our end, the end of that worker)} for worker 0 of three."""
    pairs = {rank: socket.socketpair() for rank in (1, 2)}
    yield pairs
    for pair in pairs.values():
        for end in pair:
            end.close()


def watch_of(pairs, patience=0.5, **options):
    connections = {rank: pair[0] for rank, pair in pairs.items()}
    return PeerWatch(Cluster(0, ADDRESSES), connections, patience, **{"interval": 0.05, **options})


class Beating:
    """A context in which a worker beats."""

    def __init__(self, *ends):
        self.ends, self.stopped = ends, threading.Event()
        for end in ends:
            end.setblocking(False)

    def __enter__(self):
        self.thread = threading.Thread(target=self._beat)
        self.thread.start()

    def _beat(self):
        while not self.stopped.wait(0.05):
            for end in self.ends:
                with contextlib.suppress(OSError):  # the watch has ended
                    end.send(b".")

    def __exit__(self, *exc):
        self.stopped.set()
        self.thread.join()


def test_a_worker_that_no_longer_beats_ends_the_process_after_the_patience(others, capfd):
    exits = Exits()
    with Beating(others[1][1]):
        with Beating(others[2][1]):
            watch = watch_of(others, exit=exits).start()
            assert not exits.wait(1.0)
        silent = time.monotonic()
        assert exits.wait()
        watch.stop()

    assert exits.codes == [1]
    assert 0.4 <= exits.time - silent < SOON
    error = capfd.readouterr().err
    assert error.startswith("error: Training needs all its workers. Worker 2 (c:3) did not answer for 0.5 s: ended or")
    assert "Start all workers again: the run continues from its last checkpoint." in error and error.count("\n") == 1


def test_it_beats_until_it_is_stopped(others):
    others[1][1].settimeout(SOON)
    with watch_of(others, patience=60):
        assert others[1][1].recv(1) == b"."

    while others[1][1].recv(100):  # to the end: the watch closes the connection
        pass


def test_a_worker_that_is_late_within_the_patience_is_forgiven(others):
    exits = Exits()
    with watch_of(others, patience=1.5, exit=exits):
        for _ in range(3):  # 3 s in all, but never 1.5 s in a row
            time.sleep(0.8)
            for _, end in others.values():
                end.send(b".")

        assert exits.codes == []


def test_a_worker_may_take_longer_to_its_first_beat(others, capfd):
    exits = Exits()
    with Beating(others[2][1]), watch_of(others, 0.3, first_patience=2.0, exit=exits):
        assert not exits.wait(1.0)
        assert exits.wait()

    assert "Worker 1 (b:2) did not answer for 2 s" in capfd.readouterr().err


def test_after_the_context_nobody_is_ended(others, capfd):
    exits = Exits()
    with watch_of(others, exit=exits):
        time.sleep(0.1)

    assert not exits.wait(1.0)
    assert capfd.readouterr().err == ""


def test_all_workers_that_are_lost_are_named_in_one_line(others, capfd):
    exits = Exits()
    with watch_of(others, exit=exits):
        assert exits.wait()

    assert exits.codes == [1]
    assert "Workers 1 (b:2), 2 (c:3) did not" in capfd.readouterr().err


def test_who_ended_because_of_a_frozen_worker_is_not_named(others):
    with Beating(others[2][1]), watch_of(others, patience=60, interval=0.5) as watch:
        watch._silent[1] = 30.0
        others[2][1].close()

        assert watch.name_lost() == "1 (b:2)"


def test_a_worker_that_has_just_closed_its_connection_is_named(others):
    with watch_of(others, patience=60) as watch:
        others[2][1].close()

        assert watch.name_lost() == "2 (c:3)"
        assert watch.name_lost() == "2 (c:3)"


def test_a_connection_that_stays_closed_ends_the_process_before_the_patience(others, monkeypatch, capfd):
    monkeypatch.setattr("facelib.distributed.peer_watch.CLOSED_PATIENCE", 0.5)
    exits = Exits()
    with Beating(others[1][1]), watch_of(others, patience=60, exit=exits):
        others[2][1].close()
        assert exits.wait()

    assert capfd.readouterr().err.startswith("error: Training needs all its workers. Worker 2 (c:3) ended. See the")


def test_nobody_is_named_while_all_are_there(others):
    with watch_of(others, patience=60) as watch:
        assert watch.name_lost(0.2) == ""


def test_one_worker_alone_watches_nobody():
    before = threading.active_count()

    with PeerWatch(Cluster(), {}, 0.0, interval=0.01):
        assert threading.active_count() == before


def test_a_pause_of_this_process_is_not_held_against_a_peer(others, monkeypatch):
    """Its clock jumps by an hour at each look: it was stopped, and the others may have been stopped with it."""
    exits, hours = Exits(), iter(range(10**6))
    monkeypatch.setattr("facelib.distributed.peer_watch.time.monotonic", lambda: 3600.0 * next(hours))

    with watch_of(others, patience=5, exit=exits):
        assert not exits.wait(0.5)  # ten looks, of which each counts 0.1 s at most


def test_an_output_that_nobody_reads_does_not_keep_it_from_ending(others, monkeypatch):
    class Full:
        def write(self, text):
            threading.Event().wait()

        flush = write

    monkeypatch.setattr(sys, "stderr", Full())
    exits = Exits()
    with watch_of(others, exit=exits):
        assert exits.wait()


# ------------------------------------------------------------------------------------------- processes, no TensorFlow

WORKER = """
import sys, time
from facelib.distributed.cluster import find_cluster
from facelib.distributed.peer_watch import PeerWatch
from facelib.distributed.rendezvous import JoinWatch
cluster = find_cluster()
with JoinWatch(cluster, 60, interval=0.05, token=b"3f2a") as join:
    pass
watch = PeerWatch(cluster, join.connections, 1.5, first_patience=60, interval=0.1).start()
print("joined", flush=True)
sys.stdout.write("last line of the log")  # stays in the buffer of the pipe
time.sleep(60)
"""


@pytest.fixture
def workers():
    """Three processes that have joined, and their addresses."""
    addresses = [free_address() for _ in range(3)]
    tasks = ", ".join(f'"{address}"' for address in addresses)
    started = []
    for rank in range(3):
        config = f'{{"cluster": {{"worker": [{tasks}]}}, "task": {{"type": "worker", "index": {rank}}}}}'
        env = {**os.environ, "TF_CONFIG": config, "PYTHONUNBUFFERED": ""}
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, text=True, env=env, **pipes))
    for worker in started:
        assert worker.stdout.readline() == "joined\n"
    time.sleep(0.3)  # for the first beats
    yield started, addresses
    for worker in started:
        worker.kill()
        worker.communicate()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_frozen_or_killed_process_ends_all_others(workers, number):
    processes, addresses = workers

    processes[2].send_signal(number)

    for worker in processes[:2]:
        out, err = worker.communicate(timeout=SOON)
        assert worker.returncode == 1
        named = re.match(r"error: Training needs all its workers\. Workers? (.*) did not answer for 1\.5 s", err)
        assert f"2 ({addresses[2]})" in named[1] and err.count("\n") == 1
        assert out == "last line of the log"
    assert (processes[2].poll() is None) == (number == signal.SIGSTOP)


def test_when_all_are_stopped_and_continued_none_ends(workers):
    processes, _ = workers
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for worker in processes:
            worker.send_signal(number)
        time.sleep(2.5)

    assert [worker.poll() for worker in processes] == [None] * 3
