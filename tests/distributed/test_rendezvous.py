"""facelib/distributed/rendezvous.py on real sockets of this host: a port in use, a worker that does not come."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facelib.distributed import greeting
from facelib.distributed.cluster import CONNECT_TIMEOUT, Cluster
from facelib.distributed.greeting import StrangerError
from facelib.distributed.rendezvous import JoinWatch, Rendezvous, check_port
from facelib.errors import FaceError
from tests.helpers.sockets import SOON, free_address, listening, refusing

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def present(rank, addresses, token=b""):
    """Another worker, at its rendezvous."""
    port = int(addresses[rank].rpartition(":")[2])
    with (
        socket.create_server(("127.0.0.1", port)) as listener,
        Rendezvous(Cluster(rank, tuple(addresses)), listener, interval=0.05, token=token),
    ):
        yield


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

        with pytest.raises(
            FaceError, match=rf"Worker 1 must listen at {address}, but a different process uses this port\. End"
        ):
            check_port(Cluster(1, ("127.0.0.1:1", address)))


def test_a_port_in_use_on_another_address_of_this_host_counts():
    """TensorFlow's server listens on all addresses, whatever its own is called."""
    with listening() as (_, address):
        port = address.rpartition(":")[2]

        with pytest.raises(FaceError, match="a different process uses"):
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


# -------------------------------------------------------------------------------------------------------- JoinWatch


def test_a_worker_that_never_comes_is_one_line():
    with refusing() as missing:
        addresses = (free_address(), here := free_address(), missing)
        began = time.monotonic()

        with (
            present(1, addresses),
            pytest.raises(
                FaceError, match=rf"must join within 0\.6 s\. Worker 2 \({missing}\) did not\. Start "
            ) as caught,
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
                FaceError,
                match=r"Workers 1 \(\S+, where a worker with a different list of workers answers\), 2 \(.*\) did",
            ),
            JoinWatch(Cluster(0, addresses), 0.6, interval=0.05),
        ):
            pytest.fail("it was let in")


def test_a_worker_with_another_token_is_named_and_never_present(monkeypatch):
    monkeypatch.setenv("MOBILEARC_TOKEN", "3f2a")
    addresses = (free_address(), free_address())
    with (
        present(1, addresses, token=b"3f2b"),
        pytest.raises(FaceError, match=r"Worker 1 \(\S+, where a worker with a different token answers\) did not\."),
        JoinWatch(Cluster(0, addresses), 0.6, interval=0.05),
    ):
        pytest.fail("it was let in")


def test_who_calls_in_the_place_of_a_missing_worker_is_named():
    with refusing() as missing:
        addresses = (free_address(), missing)
        port = int(addresses[0].rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)) as listener, Rendezvous(Cluster(0, addresses), listener) as one:
            with (
                socket.create_connection(("127.0.0.1", port)) as connection,
                pytest.raises(StrangerError, match="a different token"),
            ):
                greeting.call(connection, Cluster(1, addresses), 0, b"guessed")
            with pytest.raises(
                FaceError, match=r"1 \(\S+; a worker with a different token connected instead\) did not"
            ):
                one.wait(0.5)

            assert not one.callers


def test_with_the_same_token_workers_join_and_one_connection_of_each_pair_stays():
    addresses = (free_address(), free_address())
    found = {}

    def join(rank):
        with JoinWatch(Cluster(rank, addresses), SOON, interval=0.05, token=b"3f2a") as watch:
            found[rank] = watch.connections[1 - rank]

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with found[0], found[1]:
        found[0].sendall(b"to 1")
        assert found[1].recv(10) == b"to 1"


def test_calls_that_say_nothing_do_not_keep_the_others_waiting():
    addresses = (free_address(), free_address())
    with (
        socket.create_server(("127.0.0.1", int(addresses[0].rpartition(":")[2]))) as listener,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(5):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        with present(1, addresses), Rendezvous(Cluster(0, addresses), listener, interval=0.05) as rendezvous:
            began = time.monotonic()
            rendezvous.wait(SOON)

    assert time.monotonic() - began < CONNECT_TIMEOUT


def test_all_missing_workers_are_named_together():
    with (
        refusing() as first,
        refusing() as second,
        pytest.raises(FaceError, match=rf"Workers 0 \({first}\), 2 \({second}\) did not\."),
        JoinWatch(Cluster(1, (first, free_address(), second)), 0.3, interval=0.05),
    ):
        pytest.fail("it was let in")


def test_after_a_while_a_line_names_the_missing_workers(monkeypatch, capfd):
    monkeypatch.setattr("facelib.distributed.rendezvous.WAITING_LINE_AFTER", 0.2)

    with (
        refusing() as missing,
        pytest.raises(FaceError),
        JoinWatch(Cluster(0, (free_address(), missing)), 1.5, interval=0.05),
    ):
        pytest.fail("it was let in")

    assert capfd.readouterr().err == f"waiting up to 1.5 s for worker 1 ({missing})\n"


UNKNOWN = "no-such-host.invalid:23456"


def test_a_host_whose_name_nobody_knows_ends_the_wait_early(monkeypatch, capfd):
    monkeypatch.setattr("facelib.distributed.rendezvous.UNKNOWN_NAME_SECONDS", 0.4)
    monkeypatch.setattr("facelib.distributed.rendezvous.WAITING_LINE_AFTER", 0.2)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with (
        refusing() as missing,
        pytest.raises(
            FaceError,
            match=r"Every host must know .*\. This host does not know .* worker 2 \(no-such-host\.invalid:23456\)",
        ),
        JoinWatch(Cluster(0, (free_address(), missing, UNKNOWN)), SOON, interval=0.05),
    ):
        pytest.fail("it was let in")

    assert f"1 ({missing}), 2 ({UNKNOWN}, a name that this host does not know)" in capfd.readouterr().err


def test_in_kubernetes_a_name_may_become_known_as_long_as_workers_may_join(monkeypatch):
    monkeypatch.setattr("facelib.distributed.rendezvous.UNKNOWN_NAME_SECONDS", 0.1)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")

    with (
        pytest.raises(
            FaceError, match=r"must join within 0\.6 s\. Worker 1 \(no-such-host\.invalid:23456, a name that"
        ),
        JoinWatch(Cluster(0, (free_address(), UNKNOWN)), 0.6, interval=0.05),
    ):
        pytest.fail("it was let in")


def test_workers_that_come_one_after_another_meet_and_their_ports_are_free_again():
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


def test_a_port_in_use_is_one_line_at_the_rendezvous_too():
    with (
        listening() as (_, here),
        pytest.raises(FaceError, match=f"Worker 0 must listen at {here}"),
        JoinWatch(Cluster(0, (here, free_address())), 1.0),
    ):
        pytest.fail("it was let in")


def test_a_worker_that_joins_and_is_lost_ends_even_a_process_that_holds_the_interpreter_lock():
    program = f"""
import ctypes, sys
from facelib.distributed.cluster import Cluster
from facelib.distributed.rendezvous import JoinWatch
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
    assert done.stderr.startswith("error: All workers must connect to each other") and done.stderr.count("\n") == 1
    assert time.monotonic() - began < 2 * SOON


def test_what_takes_long_after_the_context_is_left_alone():
    program = """
import sys, time
from facelib.distributed.cluster import Cluster
from facelib.distributed.rendezvous import JoinWatch
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
