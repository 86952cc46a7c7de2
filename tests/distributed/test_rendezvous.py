"""facelib/distributed/peer_watch.py on real sockets of this host: who is alive, who is missing, who is gone."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facelib.distributed.cluster import Cluster
from facelib.distributed.peer_watch import PeerWatch, answers
from facelib.distributed.rendezvous import CONNECT_TIMEOUT, JoinWatch, Meeting, check_port
from facelib.errors import FaceError
from launch import free_ports

ROOT = Path(__file__).parents[2]
SOON = 20.0  # seconds; what must happen happens in a fraction of it, even on a busy machine


@contextlib.contextmanager
def listening(port=0):
    """(socket, "127.0.0.1:port") of a port that takes connections by its backlog alone: nobody ever calls accept."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1000)
        yield sock, f"127.0.0.1:{sock.getsockname()[1]}"


@contextlib.contextmanager
def refusing():
    """An address that refuses connections, and that nobody else can take meanwhile: bound, not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def free_address():
    """An address that nobody uses now; below the range that connections are given by themselves."""
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


@contextlib.contextmanager
def present(rank, addresses):
    """Another worker, in its meeting."""
    port = int(addresses[rank].rpartition(":")[2])
    with (
        socket.create_server(("127.0.0.1", port)) as listener,
        Meeting(Cluster(rank, tuple(addresses)), listener, interval=0.05),
    ):
        yield


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


# ------------------------------------------------------------------------------------------------------- check_port


def test_a_free_port_passes_and_stays_free():
    with refusing() as address:
        pass

    check_port(Cluster(1, ("127.0.0.1:1", address)))

    with listening(int(address.rpartition(":")[2])):  # nothing of ours is left there
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_one_line_with_worker_and_address(host):
    with listening() as (_, address):
        address = address.replace("127.0.0.1", host)

        with pytest.raises(FaceError, match=rf"Worker 1 is to listen at {address}, which another process uses\. End"):
            check_port(Cluster(1, ("127.0.0.1:1", address)))


def test_a_port_in_use_on_another_address_of_this_host_counts():
    """TensorFlow's server listens on all addresses, whatever its own is called."""
    with listening() as (_, address):
        port = address.rpartition(":")[2]

        with pytest.raises(FaceError, match="another process uses"):
            check_port(Cluster(0, (f"127.0.0.2:{port}", "127.0.0.1:1")))


def test_a_port_that_has_just_been_closed_is_free():
    with listening() as (server, address):
        client = socket.create_connection(server.getsockname())
        taken, _ = server.accept()
        taken.close()  # closes first, so that this port is left in TIME_WAIT
        client.close()

    check_port(Cluster(0, (address, "127.0.0.1:1")))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_of_this_host_is_left_to_the_others(host):
    with listening() as (_, address):
        check_port(Cluster(0, (f"{host}:{address.rpartition(':')[2]}", "127.0.0.1:1")))


def test_one_worker_needs_no_port():
    with listening() as (_, address):
        check_port(Cluster(0, (address,)))
        check_port(Cluster())


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


# -------------------------------------------------------------------------------------------------------- JoinWatch


def test_a_worker_that_never_comes_is_one_line():
    with refusing() as missing:
        addresses = (free_address(), here := free_address(), missing)
        began = time.monotonic()

        with (
            present(1, addresses),
            pytest.raises(FaceError, match=rf"joins within 0\.6 s\. Worker 2 \({missing}\) did not\. Start ") as caught,
            JoinWatch(Cluster(0, addresses), 0.6, interval=0.05),
        ):
            pytest.fail("it was let in")

    assert 0.6 <= time.monotonic() - began < SOON
    assert "\n" not in str(caught.value) and here not in str(caught.value)


def test_another_program_at_the_address_of_a_worker_is_no_worker():
    """One that says nothing, and one that says something else, as a training of other workers would."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = (free_address(), free_address(), f"127.0.0.1:{silent.getsockname()[1]}")
        elsewhere = (free_address(), addresses[1])
        with (
            present(1, elsewhere),
            pytest.raises(
                FaceError, match=r"Workers 1 \(\S+, where a worker with another list of workers answers\), 2 \(.*\) did"
            ),
            JoinWatch(Cluster(0, addresses), 0.6, interval=0.05),
        ):
            pytest.fail("it was let in")


def test_calls_that_say_nothing_do_not_keep_the_others_waiting():
    addresses = (free_address(), free_address())
    with (
        socket.create_server(("127.0.0.1", int(addresses[0].rpartition(":")[2]))) as listener,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(5):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        with present(1, addresses), Meeting(Cluster(0, addresses), listener, interval=0.05) as meeting:
            began = time.monotonic()
            meeting.wait(SOON)

    assert time.monotonic() - began < CONNECT_TIMEOUT


def test_all_that_are_missing_are_named_together():
    with (
        refusing() as first,
        refusing() as second,
        pytest.raises(FaceError, match=rf"Workers 0 \({first}\), 2 \({second}\) did not\."),
        JoinWatch(Cluster(1, (first, free_address(), second)), 0.3, interval=0.05),
    ):
        pytest.fail("it was let in")


def test_after_a_while_a_line_says_for_whom_we_wait(monkeypatch, capfd):
    monkeypatch.setattr("facelib.distributed.rendezvous.SAY_SO", 0.2)

    with (
        refusing() as missing,
        pytest.raises(FaceError),
        JoinWatch(Cluster(0, (free_address(), missing)), 1.5, interval=0.05),
    ):
        pytest.fail("it was let in")

    assert capfd.readouterr().err == f"waiting up to 1.5 s for worker 1 ({missing})\n"


def test_workers_that_come_one_after_the_other_meet_and_their_ports_are_free_again():
    addresses = tuple(free_address() for _ in range(3))
    entered = {}

    def join(rank):
        time.sleep(0.3 * rank)
        with JoinWatch(Cluster(rank, addresses), SOON, interval=0.05):
            entered[rank] = time.monotonic()
            with listening(int(addresses[rank].rpartition(":")[2])):  # as TensorFlow's server does next
                time.sleep(1.0)

    began = time.monotonic()
    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(entered) == [0, 1, 2]
    assert min(entered.values()) - began >= 0.6  # nobody before the last one came


def test_a_port_that_is_taken_is_one_line_on_joining_too():
    with (
        listening() as (_, here),
        pytest.raises(FaceError, match=f"Worker 0 is to listen at {here}"),
        JoinWatch(Cluster(0, (here, free_address())), 1.0),
    ):
        pytest.fail("it was let in")


def test_a_worker_that_joins_and_is_lost_ends_even_a_process_that_holds_the_interpreter_lock():
    program = f"""
import ctypes, sys
from facelib.distributed.cluster import Cluster
from facelib.distributed.peer_watch import JoinWatch
with JoinWatch(Cluster(0, tuple(sys.argv[1:])), 1.0, interval=0.05):
    print("in", flush=True)
    ctypes.PyDLL(None).sleep({int(3 * SOON)})  # PyDLL keeps the lock, as MultiWorkerMirroredStrategy() does
"""
    addresses = (free_address(), free_address())
    with present(1, addresses):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program, *addresses], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (1, "in\n")
    assert "Timeout (0:00:01)!" in done.stderr
    assert time.monotonic() - began < 2 * SOON


def test_what_takes_long_after_the_context_is_left_alone():
    program = """
import sys, time
from facelib.distributed.cluster import Cluster
from facelib.distributed.peer_watch import JoinWatch
with JoinWatch(Cluster(0, tuple(sys.argv[1:])), 1.0, interval=0.05):
    pass
time.sleep(2)
"""
    addresses = (free_address(), free_address())
    with present(1, addresses):
        done = subprocess.run([sys.executable, "-c", program, *addresses], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_one_worker_alone_joins_nobody():
    before = threading.active_count()

    with listening() as (_, taken), JoinWatch(Cluster(0, (taken,)), 0.0), JoinWatch(Cluster(), 0.0):
        assert threading.active_count() == before


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
    assert error.startswith(f"error: All workers run to the end. Worker 2 ({address}) did not answer for 0.5 s.")
    assert "continues from its last checkpoint when all are started again" in error and error.count("\n") == 1


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
        assert err.startswith("error: ") and f"Worker 2 ({addresses[2]})" in err and err.count("\n") == 1
        assert out == "last line of the log"
