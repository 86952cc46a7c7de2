"""facelib/distributed/peer_watch.py on real sockets of this host: a worker that is gone ends the others."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facelib.distributed.cluster import Cluster
from facelib.distributed.peer_watch import PeerWatch, answers
from tests.helpers.sockets import SOON, listening, refusing

ROOT = Path(__file__).parents[2]


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


# ---------------------------------------------------------------------------------------------------------- answers


def test_a_listening_port_answers_without_accept_and_a_closed_one_does_not():
    with listening() as (_, address), refusing() as closed:
        assert answers(address)
        assert not answers(closed)
    assert not answers("no-such-host.invalid:1")


def test_a_connection_that_meets_itself_is_no_answer(monkeypatch):
    def create_connection(place, timeout):
        """As the kernel does when it happens to choose the port it connects to."""
        sock = socket.socket()
        sock.bind(place)
        sock.connect(place)
        return sock

    with refusing() as address:
        pass
    monkeypatch.setattr(socket, "create_connection", create_connection)

    assert not answers(address)


# -------------------------------------------------------------------------------------------------------- PeerWatch


def test_a_peer_that_goes_ends_the_process_after_the_patience(capfd):
    exits = Exits()
    with contextlib.ExitStack() as stack, listening() as (_, other), refusing() as ours:
        _, address = stack.enter_context(listening())
        watch = PeerWatch(Cluster(1, (other, ours, address)), 0.5, interval=0.05, exit=exits).start()
        assert not exits.wait(1.0)
        stack.close()
        gone = time.monotonic()
        assert exits.wait()
        watch.stop()

    assert exits.codes == [1]
    assert exits.time - gone >= 0.4
    error = capfd.readouterr().err
    assert error.startswith(f"error: A training needs all its workers. Worker 2 ({address}) did not answer for 0.5 s.")
    assert "Start all workers again: the run continues from its last checkpoint." in error and error.count("\n") == 1


def test_a_peer_that_comes_back_within_the_patience_is_forgiven():
    exits = Exits()
    with listening() as (_, address):
        pass
    port = int(address.rpartition(":")[2])
    with PeerWatch(Cluster(0, ("127.0.0.1:1", address)), 1.5, interval=0.05, exit=exits):
        for _ in range(3):  # 3 s in all, but never 1.5 s in a row
            time.sleep(0.5)
            with listening(port):
                time.sleep(0.5)

        assert exits.codes == []


def test_after_the_context_nobody_is_ended(capfd):
    exits = Exits()
    with refusing() as missing, PeerWatch(Cluster(0, ("127.0.0.1:1", missing)), 0.5, interval=0.05, exit=exits):
        time.sleep(0.1)

    assert not exits.wait(1.0)
    assert capfd.readouterr().err == ""


def test_all_peers_that_went_are_named_in_one_line(capfd):
    exits = Exits()
    with (
        refusing() as first,
        refusing() as second,
        PeerWatch(Cluster(1, (first, "127.0.0.1:1", second)), 0.5, interval=0.05, exit=exits),
    ):
        assert exits.wait()
        time.sleep(0.5)  # the other thread comes to its end too

    assert exits.codes == [1]
    assert f"Workers 0 ({first}), 2 ({second}) did not" in capfd.readouterr().err


def test_one_worker_alone_watches_nobody():
    before = threading.active_count()

    with PeerWatch(Cluster(), 0.0, interval=0.01):
        assert threading.active_count() == before


def test_a_pause_of_this_process_is_not_held_against_a_peer(monkeypatch):
    """One failure before the process was stopped for an hour and one after it: the peer had no chance between."""
    attempts, exits, hours = iter([True, False, False, True]), Exits(), iter(range(1000))
    more = threading.Event()

    def answers_by_turns(address):
        alive = next(attempts, None)
        if alive is None:
            more.set()
        return alive is not False

    monkeypatch.setattr("facelib.distributed.peer_watch.answers", answers_by_turns)
    monkeypatch.setattr("facelib.distributed.peer_watch.time.monotonic", lambda: 3600.0 * next(hours))
    with PeerWatch(Cluster(0, ("127.0.0.1:1", "127.0.0.1:2")), 30, interval=0.01, exit=exits):
        assert more.wait(SOON)

    assert exits.codes == []


WORKER = """
import os, socket, sys, time
from facelib.distributed.cluster import find_cluster
from facelib.distributed.peer_watch import PeerWatch
cluster = find_cluster()
server = socket.create_server(("127.0.0.1", int(cluster.addresses[cluster.rank].rpartition(":")[2])))
print("listens", flush=True)
sys.stdin.readline()
PeerWatch(cluster, 1.0, interval=0.1).start()
sys.stdout.write("last line of the log")  # stays in the buffer of the pipe
time.sleep(60)
"""


@pytest.fixture
def start_worker():
    started = []

    def start(rank, addresses):
        tasks = ", ".join(f'"{address}"' for address in addresses)
        config = f'{{"cluster": {{"worker": [{tasks}]}}, "task": {{"type": "worker", "index": {rank}}}}}'
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=ROOT, text=True,
            env={**os.environ, "TF_CONFIG": config, "PYTHONUNBUFFERED": ""},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_process_ends_all_others_and_a_stopped_one_none(start_worker):
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(refusing()) for _ in range(3)]
    workers = [start_worker(rank, addresses) for rank in range(3)]
    for worker in workers:
        assert worker.stdout.readline() == "listens\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()

    workers[2].send_signal(19)  # SIGSTOP: slow beyond measure, but there
    time.sleep(2.5)
    assert [worker.poll() for worker in workers[:2]] == [None, None]

    workers[2].kill()
    for worker in workers[:2]:
        out, err = worker.communicate(timeout=SOON)
        assert worker.returncode == 1
        # The first of the two that ends may be gone before the second one writes; that one then names both.
        named = re.match(r"error: A training needs all its workers\. Workers? (.*) did not answer for 1 s\.", err)
        assert f"2 ({addresses[2]})" in named[1] and err.count("\n") == 1
        assert out == "last line of the log"
